"""What is cut from an image, and how a network is tested on it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.evaluation import views
from alexnet_jax.evaluation.evaluator import Evaluator
from alexnet_jax.evaluation.scores import sums
from alexnet_jax.model import AlexNet, Conv, Dense, Network, make_mesh

SIZE, CROP, CLASSES, COUNT = 30, 23, 7, 11


def pictures(seed: int = 0, count: int = COUNT) -> np.ndarray:
    """Noise, so that no two places look alike."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def mean_image() -> np.ndarray:
    """Another value at every pixel."""
    return np.random.default_rng(9).uniform(100, 140, (SIZE, SIZE, 3)).astype(np.float32)


def ten_cuts(images: np.ndarray, mean: np.ndarray, crop: int) -> list[np.ndarray]:
    """Section 4.1 by NumPy slices: the centre, four corners, and the mirror image of each."""
    size = images.shape[1]
    edge, middle = size - crop, (size - crop) // 2
    cut_mean = mean[middle : middle + crop, middle : middle + crop]
    found = []
    for top, left in [(middle, middle), (0, 0), (0, edge), (edge, 0), (edge, edge)]:
        found.append(images[:, top : top + crop, left : left + crop].astype(np.float32))
    found += [cut[:, :, ::-1] for cut in found]
    return [cut - cut_mean for cut in found]


@pytest.mark.parametrize(("size", "crop"), [(SIZE, CROP), (30, 24), (24, 24)])
def test_ten_views(size: int, crop: int) -> None:
    """Also at an odd difference of sizes, and where the crop is the whole image."""
    images, mean = pictures()[:2, :size, :size], mean_image()[:size, :size]
    asked = views.ten_views(size, crop)
    assert len(asked) == 10 and not asked[0].flip
    assert sum(view.flip for view in asked) == 5
    found = [views.cut(images, mean, view, crop) for view in asked]
    for one, other in zip(found, ten_cuts(images, mean, crop), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


def test_ten_views_with_the_mean_of_each_pixel() -> None:
    """The preset 'paper' at test: the mean is subtracted from the whole image, then it is cut."""
    images, mean = pictures()[:2], mean_image()
    centred = images.astype(np.float32) - mean
    for view in views.ten_views(SIZE, CROP):
        window = centred[:, view.top : view.top + CROP, view.left : view.left + CROP]
        expected = window[:, :, ::-1] if view.flip else window
        found = views.cut(images, mean, view, CROP, aligned=True)
        np.testing.assert_array_equal(found, expected)


def test_views_of_2012() -> None:
    """224 of 256: corners at 0 and 32, centre at 16 (convdata_jpeg.py:226-233)."""
    places = {(view.top, view.left) for view in views.ten_views(256, 224)}
    assert places == {(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)}


def test_training_images() -> None:
    """Minus the centre of the mean image, wherever the crop came from; plus light; divided."""
    crops, shift = pictures()[:3, :CROP, :CROP], np.array([[1.5, -2, 30]] * 3, np.float32)
    centre = mean_image()[3 : 3 + CROP, 3 : 3 + CROP]
    plain = views.training_images({"image": crops}, mean_image())
    np.testing.assert_array_equal(plain, crops.astype(np.float32) - centre)
    lit = views.training_images({"image": crops, "shift": shift}, mean_image(), 1.1)
    expected = (crops.astype(np.float32) - centre + shift[:, None, None, :]) / np.float32(1.1)
    assert fixtures.difference(lit, expected) < 1e-6


def test_aligned_mean() -> None:
    """The preset 'paper': every pixel minus its own mean, also where the crop was mirrored."""
    images, mean = pictures(count=4), mean_image()
    offsets = np.array([[0, 0, 0], [2, 5, 0], [7, 7, 1], [3, 1, 1]], np.int32)
    crops, expected = [], []
    for image, (top, left, flip) in zip(images, offsets, strict=True):
        window = (slice(top, top + CROP), slice(left, left + CROP))
        step = -1 if flip else 1
        crops.append(image[window][:, ::step])
        expected.append((image.astype(np.float32) - mean)[window][:, ::step])
    found = views.training_images({"image": np.stack(crops), "offset": offsets}, mean)
    np.testing.assert_array_equal(found, np.stack(expected))


def test_sums() -> None:
    """Six classes; padding weighs nothing, whatever stands there."""
    probabilities = jnp.array([
        [0.50, 0.10, 0.10, 0.10, 0.10, 0.10],  # right
        [0.30, 0.25, 0.20, 0.15, 0.06, 0.04],  # fifth: right among five
        [0.30, 0.25, 0.20, 0.15, 0.06, 0.04],  # sixth: wrong
        [0.01, 0.01, 0.01, 0.01, 0.01, 0.95],  # padding
    ])  # fmt: skip
    found = sums(probabilities, jnp.array([0, 4, 5, 0]), jnp.array([1.0, 1.0, 1.0, 0.0]))
    loss = -math.log(0.5) - math.log(0.06) - math.log(0.04)
    expected = {"loss": loss, "top1": 2.0, "top5": 1.0, "examples": 3.0}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_a_network_that_says_nothing_gets_no_credit() -> None:
    """Equal probabilities, and numbers that are none, are errors in both measures."""
    nothing = jnp.stack([jnp.full(8, 1 / 8), jnp.full(8, jnp.nan)])
    found = sums(nothing, jnp.array([0, 0]), jnp.ones(2))
    assert float(found["top1"]) == float(found["top5"]) == 2
    one_bad = jnp.array([[0.9, jnp.nan, 0.1, 0, 0, 0], [jnp.nan, 0.9, 0.1, 0, 0, 0]])
    assert float(sums(one_bad, jnp.array([0, 0]), jnp.ones(2))["top1"]) == 2


def test_a_tie_for_the_fifth_place_is_an_error() -> None:
    """Four are ahead and one is equal; without the tie it is the fifth."""
    tied = jnp.array([[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]])
    assert float(sums(tied, jnp.array([4]), jnp.ones(1))["top5"]) == 1
    clear = jnp.array([[0.2, 0.2, 0.2, 0.2, 0.11, 0.09]])
    assert float(sums(clear, jnp.array([4]), jnp.ones(1))["top5"]) == 0


@functools.cache
def tiny() -> tuple[Network, Any]:
    """conv1, fc6 and fc8 alone: what is tested here is not the network."""
    gone = {name: Conv(0, 3) for name in ("conv2", "conv3", "conv4", "conv5")}
    network = Network(
        classes=CLASSES,
        input_size=CROP,
        conv1=Conv(4, 11, 4, std=0.02, after="activation"),
        **gone,
        fc6=Dense(8, std=0.05),
        fc7=Dense(0),
        fc8_std=0.5,
    )
    return network, jax.tree.map(np.float32, fixtures.random_params(network))


@functools.cache
def expected_scores() -> dict[int, tuple[float, float, float]]:
    """Loss, top-1 and top-5 error by NumPy, in one view and in ten."""
    network, params = tiny()
    labels = fixtures.random_labels(COUNT, CLASSES)
    apply = jax.jit(AlexNet(network).apply)
    seen = []
    for cut in ten_cuts(pictures(), mean_image(), CROP):
        logits = np.asarray(apply({"params": params}, cut), np.float64)
        seen.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    scores = {}
    for count in (1, 10):
        mean = np.mean(seen[:count], axis=0)
        places = np.argsort(-mean, axis=1)
        rank = np.argmax(places == labels[:, None], axis=1)
        loss = -np.log(mean[np.arange(COUNT), labels]).mean()
        scores[count] = (loss, float(np.mean(rank >= 1)), float(np.mean(rank >= 5)))
    return scores


@pytest.mark.parametrize(
    ("mesh", "batch_size"), [((1, 1), 4), ((1, 1), 16), ((1, 2), 11), ((4, 2), 3)]
)
def test_every_image_counts_once(mesh: tuple[int, int], batch_size: int) -> None:
    """Eleven images in batches that fit, that do not, and that are larger; the loss in ten views is
    -log of the mean probability, not the mean of ten losses."""
    network, params = tiny()
    evaluator = Evaluator(AlexNet(network, make_mesh(*mesh)), mean_image(), batch_size)
    labels = fixtures.random_labels(COUNT, CLASSES)
    scores = evaluator({"params": params}, pictures(), labels, ten_views=True)
    assert [score.views for score in scores] == [1, 10]
    for score in scores:
        assert score.examples == COUNT
        found = (score.loss, score.top1_error, score.top5_error)
        assert found == pytest.approx(expected_scores()[score.views], rel=1e-5)
    (alone,) = evaluator({"params": params}, pictures(), labels, ten_views=False)
    assert alone == scores[0]


def test_a_score_says_its_number_of_views() -> None:
    """No error is printed without it: one view is about two points worse than ten."""
    network, params = tiny()
    evaluator = Evaluator(AlexNet(network, make_mesh(1, 1)), mean_image(), 4)
    labels = fixtures.random_labels(COUNT, CLASSES)
    one, ten = evaluator({"params": params}, pictures(), labels, ten_views=True)
    assert "in one view of 11 images" in str(one) and "in ten views of 11 images" in str(ten)
    assert expected_scores()[1] != expected_scores()[10]
