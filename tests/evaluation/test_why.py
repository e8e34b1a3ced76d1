"""Why an answer: each way of looking beside a plain one, and what cannot be asked."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
import trained_fixtures
from asked_fixtures import CLASSES, CROP, SIZE, network, squares

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import why
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model import AlexNet, Conv, make_mesh

START = (SIZE - CROP) // 2
FIRST = slice(START, START + CROP)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """One with structure everywhere, (S, S, 3)."""
    return trained_fixtures.pictures(1, SIZE, seed=3)[0]


@pytest.fixture(scope="module")
def found(picture: np.ndarray) -> why.Explanation:
    """Why the small network answers as it does."""
    return why.explain(network(), picture)


def seen(picture: np.ndarray) -> np.ndarray:
    """What the network computes with, float64 (1, C, C, 3)."""
    mean = np.asarray(network().viewer.mean_image, np.float64)
    return (picture - mean)[None, FIRST, FIRST]


def exact_logits(params: Any, inputs: np.ndarray) -> np.ndarray:
    """In float64, (N, classes)."""
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, params)
        return np.asarray(
            jax.jit(AlexNet(fixtures.small_network()).apply)({"params": wide}, inputs)
        )


# --- occlusion ------------------------------------------------------------------------------------


def test_the_answer_under_every_square(picture: np.ndarray, found: why.Explanation) -> None:
    """One picture at a time, painted over by hand and answered by `predict`."""
    square = found.occlusion
    assert square.side == CROP // 5 and len(square.starts) == 15
    assert square.starts[0] == 0 and square.starts[-1] + square.side == CROP
    grey = np.round(np.asarray(network().viewer.mean_image, np.float64).reshape(-1, 3).mean(0))
    for row, column in ((0, 0), (0, 14), (7, 3), (14, 14)):
        top, left = START + square.starts[row], START + square.starts[column]
        painted = picture.copy()
        for y in range(top, top + square.side):
            for x in range(left, left + square.side):
                painted[y, x] = grey
        (expected,) = network().predict(painted)
        assert square.probabilities[row, column] == pytest.approx(expected[found.label], rel=1e-4)
    assert np.ptp(square.probabilities) > 0.01  # it matters where the square lies
    np.testing.assert_allclose(found.probabilities, network().predict(picture)[0], rtol=1e-4)
    assert found.label == found.probabilities.argmax()


def test_the_square_that_takes_most_and_the_mean_of_those_over_a_pixel() -> None:
    """Pixel by pixel, in loops."""
    starts = np.array([0, 2, 5])
    probabilities = np.random.default_rng(0).uniform(size=(3, 3))
    probabilities[2, 1] = -1
    square = why.Occlusion(4, starts, probabilities)
    assert square.place == (7, 4)
    expected = np.zeros((9, 9))
    for y in range(9):
        for x in range(9):
            over = [
                probabilities[i, j]
                for i in range(3)
                for j in range(3)
                if starts[i] <= y < starts[i] + 4 and starts[j] <= x < starts[j] + 4
            ]
            expected[y, x] = sum(over) / len(over)
    np.testing.assert_allclose(square.at_pixels(), expected)


# --- saliency -------------------------------------------------------------------------------------


def test_saliency_is_the_steepest_difference(picture: np.ndarray, found: why.Explanation) -> None:
    """Of logits in float64, for a small step of each colour of some pixels, up and down."""
    params, inputs, step = network().variables["params"], seen(picture), 1e-4
    order = np.argsort(found.saliency, axis=None)
    places = [divmod(int(order[n]), CROP) for n in (*range(-1, -400, -40), len(order) // 2)]
    moved = []
    for y, x in places:
        for colour in range(3):
            for sign in (1, -1):
                one = inputs[0].copy()
                one[y, x, colour] += sign * step
                moved.append(one)
    logits = exact_logits(params, np.array(moved))[:, found.label].reshape(len(places), 3, 2)
    expected = np.abs(logits[..., 0] - logits[..., 1]).max(axis=1) / (2 * step)
    at = np.array([found.saliency[place] for place in places])
    np.testing.assert_allclose(at, expected, rtol=2e-3)
    assert at[0] > 5 * at[-1] > 0


def test_saliency_beside_pytorch(
    reference: ModuleType, picture: np.ndarray, found: why.Explanation
) -> None:
    """All pixels at once, by its derivatives of the same network in float64."""
    import torch

    inputs = torch.tensor(seen(picture), requires_grad=True)
    params = reference.tensors(jax.tree.map(np.float64, network().variables["params"]))
    logits = reference.forward(params, inputs)
    (slopes,) = torch.autograd.grad(logits[0, found.label], inputs)
    expected = slopes[0].abs().amax(-1).numpy()
    assert fixtures.difference(found.saliency, expected) < 1e-3


# --- silenced towers ------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", [0, 1])
def test_a_silenced_tower_is_one_whose_maps_are_zero(
    picture: np.ndarray, found: why.Explanation, tower: int
) -> None:
    """By hand: no kernels and no biases where it is heard, in conv2 and conv5; a ReLU of nothing is
    nothing."""
    params = jax.tree.map(np.array, network().variables["params"])
    for name in ("conv2", "conv5"):
        for array in params[name].values():
            np.split(array, 2, axis=-1)[tower][:] = 0
    logits = exact_logits(params, seen(picture))[0]
    powers = np.exp(logits - logits.max())
    np.testing.assert_allclose(found.silenced[tower], powers / powers.sum(), rtol=1e-4)
    assert np.abs(found.silenced[tower] - found.probabilities).max() > 0.01


VARIANTS = {
    "nets that never talk": fixtures.apart(fixtures.small_network(), "conv3", "fc6", "fc7"),
    "towers that meet at fc7": fixtures.apart(fixtures.small_network(), "fc6"),
    "a sixth layer": fixtures.small_network(conv6=Conv(16, 3, 1, (1, 1), True, 0.1)),
    "no hidden layer": fixtures.small_network(
        fc6=dataclasses.replace(fixtures.small_network().fc6, width=0),
        fc7=dataclasses.replace(fixtures.small_network().fc7, width=0),
    ),
    "local kernels": fixtures.small_network(
        conv3=dataclasses.replace(fixtures.small_network().conv3, local=True)
    ),
}


def variant(name: str) -> TrainedNetwork:
    """One of another make, with random weights."""
    made = VARIANTS[name]
    params = jax.tree.map(np.float32, fixtures.random_params(made))
    config = fixtures.small_config(f"data.size={SIZE}", network=made)
    mean = np.full((SIZE, SIZE, 3), 120, np.float32)
    return TrainedNetwork(name, config, make_mesh(1, 1), {"params": params}, mean, CLASSES, 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_silenced_tower_tells_nobody_anything(name: str) -> None:
    """Of whatever make: its own kernels of all convolutions no longer matter, the other's do."""
    asked, pictures = variant(name), squares(2)
    params = asked.variables["params"]

    def logits(changed: Any) -> np.ndarray:
        asked.variables = {"params": changed}
        return why.silenced(asked, 1).logits(pictures)

    def doubled(layer: str, tower: int) -> Any:
        kernel = np.array(params[layer]["kernel"])
        np.split(kernel, 2, axis=-1)[tower][:] *= 2
        return params | {layer: params[layer] | {"kernel": kernel}}

    expected = logits(params)
    last = list(asked.viewer.model.network.convolutions())[-1]
    for layer in ("conv1", "conv2", last):
        np.testing.assert_array_equal(logits(doubled(layer, 1)), expected)
        assert not np.array_equal(logits(doubled(layer, 0)), expected)
    assert asked.variables["params"].keys() == params.keys()


# --- the rest -------------------------------------------------------------------------------------


def test_activations_by_tower(picture: np.ndarray, found: why.Explanation) -> None:
    """Those that `features` gives, cut in the middle."""
    assert list(found.activations) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    for name in ("conv1", "conv5", "fc7"):
        (expected,) = network().features(picture, name)
        np.testing.assert_allclose(
            np.concatenate(found.activations[name], axis=-1), expected, rtol=1e-4, atol=1e-4
        )
    assert [own.shape for own in found.activations["conv1"]] == [(23, 23, 4)] * 2
    np.testing.assert_array_equal(found.seen, picture[FIRST, FIRST])


def test_one_tower_of_another_make_on_several_devices(picture: np.ndarray) -> None:
    """There is none to silence; any class can be explained; two copies of a picture are as one, by
    batch norm's running averages."""
    made = fixtures.small_network(towers=1, norm="batch_norm", activation="sigmoid")
    drawn = jax.jit(AlexNet(made, make_mesh(1, 1)).init)(
        jax.random.key(0), jnp.zeros((1, CROP, CROP, 3))
    )
    config = fixtures.small_config(f"data.size={SIZE}", network=made)
    mean = np.asarray(network().viewer.mean_image)
    found = []
    for mesh in (make_mesh(1, 1), make_mesh(2, 1)):
        asked = TrainedNetwork("one", config, mesh, dict(drawn), mean, CLASSES, 0)
        found.append(why.explain(asked, picture, 5))
    one, two = found
    np.testing.assert_allclose(two.probabilities, asked.predict(picture)[0], rtol=1e-4)
    assert one.label == two.label == 5 and one.silenced.shape == (0, 12)
    assert fixtures.difference(two.saliency, one.saliency) < 1e-3 and one.saliency.max() > 0
    assert fixtures.difference(two.occlusion.probabilities, one.occlusion.probabilities) < 1e-4
    assert [len(towers) for towers in one.activations.values()] == [1] * 7
    with pytest.raises(UserError, match="one is a network of one tower: there is none to silence"):
        why.silenced(asked, 0)


def test_refusals(picture: np.ndarray, tmp_path: Path) -> None:
    """Several images, none, a class that is not there, and files that are no images."""
    with pytest.raises(UserError, match="2 images were given: one at a time is explained"):
        why.explain(network(), squares(2))
    with pytest.raises(UserError, match="0 images were given"):
        why.explain(network(), [])
    for label in (-1, 12, 0.5, "a"):
        with pytest.raises(UserError, match=f"label={label!r}: expected 0 to 11"):
            why.explain(network(), picture, label)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no file"):
        why.explain(network(), tmp_path / "no.jpg")
