"""`alexnet_jax.load`: what a user asks of a trained network from Python."""

import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
import trained_fixtures
from PIL import Image

import alexnet_jax
from alexnet_jax import settings
from alexnet_jax.data.decoding import BadImage
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model import AlexNet, make_mesh
from alexnet_jax.run import inputs
from alexnet_jax.run.inputs import words

SIZE, CROP = trained_fixtures.SIZE, 96


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network."""
    path = tmp_path_factory.mktemp("run")
    trained_fixtures.save_network(path)
    return path


@pytest.fixture(scope="module")
def network(workdir: Path) -> TrainedNetwork:
    """The same, loaded on one device."""
    return alexnet_jax.load(workdir, mesh=make_mesh(1, 1))


@pytest.fixture(scope="module")
def stages(network: TrainedNetwork) -> dict[str, np.ndarray]:
    """Every stage of the central view of three pictures, in float64, with crops by NumPy."""
    start = (SIZE - CROP) // 2
    inside = np.s_[..., start : start + CROP, start : start + CROP, :]
    mean = np.float64(np.float32(trained_fixtures.mean_image()))
    crops = trained_fixtures.pictures(3)[inside] - mean[inside]
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, network.variables["params"])
        found = AlexNet(fixtures.small_network()).apply(
            {"params": params}, jnp.asarray(crops), intermediates=True
        )
        values: dict[str, np.ndarray] = jax.tree.map(np.asarray, found[1])
    powers = np.exp(values["fc8"] - values["fc8"].max(1, keepdims=True))
    return {**values, "prob": powers / powers.sum(1, keepdims=True)}


def test_every_layer(network: TrainedNetwork, stages: dict[str, np.ndarray]) -> None:
    """Each name gives its stage, alone as with all others; a bare name the layer's activations."""
    pictures = trained_fixtures.pictures(3)
    found = network.features(pictures, [*network.layers])
    assert [*found] == [*network.layers]
    for layer, stage in network.layers.items():
        assert found[layer].dtype == np.float32
        assert fixtures.difference(found[layer], stages[stage]) < 1e-5, layer
    for layer in ("conv1/norm", "pool5", "fc7", "prob"):
        alone = network.features(pictures, layer)
        assert fixtures.difference(alone, stages[network.layers[layer]]) < 1e-5, layer
    assert network.layers["fc7"] == "fc7/activation" and network.layers["fc7/sum"] == "fc7"
    assert set(network.layers.values()) == stages.keys()


def test_probabilities(network: TrainedNetwork, stages: dict[str, np.ndarray]) -> None:
    """The softmax of the logits; ten views are its average over them."""
    pictures = trained_fixtures.pictures(3)
    np.testing.assert_allclose(network.predict(pictures), stages["prob"], atol=1e-5)
    views = []
    for view in range(10):
        powers = np.exp(np.float64(network.logits(pictures, view)))
        views.append(powers / powers.sum(1, keepdims=True))
    ten = network.predict(pictures, ten_views=True)
    np.testing.assert_allclose(ten, np.mean(views, axis=0), atol=1e-6)
    assert np.abs(views[0] - views[5]).max() > 1e-4  # the views differ


def test_several_layers(network: TrainedNetwork, stages: dict[str, np.ndarray]) -> None:
    """A dictionary by the names that were given, in their order; each in one view, in another, in
    the mean over ten, and over the places of maps."""
    pictures = trained_fixtures.pictures(3)
    names = {"prob": "prob", "relu2": "conv2/activation", "fc6/sum": "fc6", "pool5": "conv5/pool"}
    found = network.features(pictures, tuple(names))
    assert [*found] == [*names]
    assert fixtures.difference(found, {name: stages[stage] for name, stage in names.items()}) < 1e-5
    views = [network.features(pictures, [*names], view) for view in range(10)]
    ten = network.features(pictures, [*names], ten_views=True)
    expected = jax.tree.map(lambda *all_ten: np.mean(np.float64(all_ten), axis=0), *views)
    assert fixtures.difference(ten, expected) < 1e-5
    assert fixtures.difference(views[3], views[0]) > 1e-2
    np.testing.assert_allclose(ten["prob"], network.predict(pictures, ten_views=True), rtol=1e-5)
    pooled = network.features(pictures, ["relu2", "fc6/sum"], pooled=True)
    means = {"relu2": stages["conv2/activation"].mean((1, 2)), "fc6/sum": stages["fc6"]}
    assert fixtures.difference(pooled, means) < 1e-5


def test_what_an_image_may_be(network: TrainedNetwork, tmp_path: Path) -> None:
    """A path, a file's bytes, pixels of any size: the same picture, the same answer."""
    pixels = trained_fixtures.pictures(1, 170)[0]
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    given = [path, str(path), path.read_bytes(), pixels]
    found = network.predict(given)
    assert len(found) == 4 and (found == found[0]).all()
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=98)
        near = network.predict([file.getvalue()])
    assert np.abs(near - found[:1]).max() < 0.05


def test_one_image_or_many(network: TrainedNetwork, tmp_path: Path) -> None:
    """What asks the network takes what `given` takes; an image alone is the first row."""
    pixels = trained_fixtures.pictures(2, 170)
    Image.fromarray(pixels[0]).save(tmp_path / "picture.png")
    expected = network.predict(pixels)
    for images in (tmp_path / "picture.png", Image.fromarray(pixels[0]), jnp.asarray(pixels[0])):
        np.testing.assert_allclose(network.predict(images), expected[:1], rtol=1e-5)
    np.testing.assert_array_equal(network.predict(jnp.asarray(pixels)), expected)
    mixed = [str(tmp_path / "picture.png"), pixels[1]]
    np.testing.assert_array_equal(network.predict(mixed), expected)
    np.testing.assert_array_equal(network.features(mixed), network.features(pixels))
    np.testing.assert_array_equal(network.logits(iter(mixed)), network.logits(pixels))


def test_what_it_says_of_itself(network: TrainedNetwork, workdir: Path) -> None:
    """Where it comes from, its classes and sizes, and where it computes."""
    assert repr(network) == (
        f"<TrainedNetwork {workdir}, step 3: 12 classes (class 0, class 1, ..., class 11), images "
        "of 110x110, views of 96x96, mesh data=1 tower=1 (cpu)>"
    )


def test_batches_do_not_show(network: TrainedNetwork) -> None:
    """Each image's answer is its own, however many are asked about at once."""
    pictures = trained_fixtures.pictures(37)
    whole = network.logits(pictures)
    assert whole.shape == (37, 12)
    for some in (np.s_[:1], np.s_[30:37]):
        assert fixtures.difference(network.logits(pictures[some]), whole[some]) < 1e-5


def test_on_several_devices(workdir: Path, network: TrainedNetwork) -> None:
    """Both towers on each of four, or a tower on each of two: the same logits."""
    pictures = trained_fixtures.pictures(3)
    for mesh in (make_mesh(4, 1), make_mesh(1, 2)):
        found = alexnet_jax.load(workdir, mesh=mesh).logits(pictures)
        assert fixtures.difference(found, network.logits(pictures)) < 1e-5


def test_the_last_checkpoint_or_the_best(tmp_path: Path) -> None:
    """The last by default, which here knows nothing, or the one of the lowest validation error."""
    params = trained_fixtures.save_network(tmp_path)
    with pytest.raises(UserError, match="no validation errors to choose by: leave out --best"):
        alexnet_jax.load(tmp_path, best=True)
    trained_fixtures.save_best_and_last(tmp_path, params, 5, 8)
    last, best = (alexnet_jax.load(tmp_path, best=best) for best in (False, True))
    assert (last.step, best.step) == (8, 5)
    assert not any(np.asarray(array).any() for array in jax.tree.leaves(last.variables["params"]))
    jax.tree.map(np.testing.assert_array_equal, dict(best.variables["params"]), params)


def test_words() -> None:
    """ImageNet's names become words, all others stay."""
    assert words(["n01440764", "n02123045", "n99999999"]) == ["tench", "tabby cat", "n99999999"]
    assert words(["trouser", "boot"]) == ["trouser", "boot"]


def test_class_names_of_any_bytes(tmp_path: Path, workdir: Path) -> None:
    """What a file system allows in a folder's name comes back as it was."""
    names = ["plain", "Käfer", "a\u2028b", b"caf\xe9".decode(errors="surrogateescape"), " "] * 2
    names += ["x", "y"]
    inputs.write_input(tmp_path, trained_fixtures.mean_image(), names)
    config = settings.read(workdir / "config.json")
    assert inputs.read_input(tmp_path, config)[1] == names


def test_a_device_that_is_out_of_memory(network: TrainedNetwork) -> None:
    """The number of images at a time is named."""

    def full(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    with pytest.raises(UserError, match="out of memory, with batch_size=3 in float32: give fewer"):
        list(network.in_batches(full, trained_fixtures.pictures(4), 3))


def test_refusals(network: TrainedNetwork, workdir: Path, tmp_path: Path) -> None:
    """What cannot be asked, and directories that hold no network."""
    pictures = trained_fixtures.pictures(1)
    with pytest.raises(UserError, match="no layer 'fc9': one of conv1, conv1/sum"):
        network.features(pictures, "fc9")
    for layer in ("fc9", "fc7,fc8", None, 7):
        with pytest.raises(UserError, match=f"no layer {layer!r}: one of conv1, conv1/sum"):
            network.features(pictures, ["fc7", layer])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no layers were given"):
        network.features(pictures, [])
    for view in (10, -1, 0.5, "0", None):
        with pytest.raises(UserError, match=f"view={view!r}: expected 0 to 9"):
            network.logits(pictures, view)  # type: ignore[arg-type]
    for batch_size in (0, -1, 2.0, "all"):
        with pytest.raises(UserError, match=f"batch_size={batch_size!r}: expected 1 to"):
            network.predict(pictures, batch_size=batch_size)  # type: ignore[arg-type]
    for nothing in ([], iter(()), pictures[:0], jnp.asarray(pictures[:0])):
        with pytest.raises(UserError, match="no images were given"):
            network.predict(nothing)
    with pytest.raises(UserError, match="images are None: expected a path"):
        network.predict(None)
    with pytest.raises(BadImage, match="float64"):
        network.predict(pictures / 255)
    with pytest.raises(BadImage, match="not an image"):
        network.predict([b"no image"])
    with pytest.raises(UserError, match="holds no run"):
        alexnet_jax.load(tmp_path)
    (tmp_path / "config.json").write_bytes((workdir / "config.json").read_bytes())
    (tmp_path / "input").mkdir()
    with pytest.raises(UserError, match="input is damaged"):
        alexnet_jax.load(tmp_path)
    inputs.write_input(tmp_path, np.zeros((9, 9, 3)), ["one"])
    with pytest.raises(UserError, match=r"mean image of \(9, 9, 3\) and 1 classes"):
        alexnet_jax.load(tmp_path)
    inputs.write_input(tmp_path, trained_fixtures.mean_image(), trained_fixtures.CLASSES)
    with pytest.raises(UserError, match="no checkpoint yet"):
        alexnet_jax.load(tmp_path)
