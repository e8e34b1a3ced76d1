"""The witness of `test_glue`: what a recorded batch was cut from, and what two steps come to.

NumPy in float64, and nothing of `alexnet_jax` but the description of the network. That is conv1,
fc6 with dropout, and fc8: what is tested is not the layers, but what surrounds them.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import data_fixtures
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.model import Conv, Dense, Network

Params = dict[str, dict[str, np.ndarray]]

COUNT, SIZE, CROP, CLASSES = 24, 20, 16, 7
KERNEL, STRIDE = 5, 3


def network(classes: int = CLASSES, crop: int = CROP, **changes: Any) -> Network:
    """conv1 of 4 kernels, fc6 of 8 units, fc8."""
    layers = {
        "conv1": Conv(4, KERNEL, STRIDE, std=0.02, after="activation"),
        **{name: Conv(0, 3) for name in ("conv2", "conv3", "conv4", "conv5")},
        "fc6": Dense(8, std=0.1),
        "fc7": Dense(0),
    }
    fields = {"classes": classes, "input_size": crop, "fc8_std": 0.2, **layers, **changes}
    return Network(**fields)


# --- batches --------------------------------------------------------------------------------------


@functools.cache
def cache() -> Cache:
    """Noise from 96 to 159, so that a crop tells its place, also when lighting has shifted it, and
    lighting saturates nothing; a mean image with another value at every pixel, in float64."""
    rng = np.random.default_rng(0)
    images = rng.integers(96, 160, (COUNT, SIZE, SIZE, 3), np.uint8)
    return data_fixtures.memory_cache(images, mean_image=rng.uniform(100, 150, images.shape[1:]))


class Origin(NamedTuple):
    """Where a crop comes from.

    Attributes:
        image: its number.
        top: in pixels.
        left: in pixels.
        mirrored: 0 or 1.
        shift: what was added to every pixel, (3,) integers.
    """

    image: int
    top: int
    left: int
    mirrored: int
    shift: tuple[int, ...]


def origin(crop: np.ndarray) -> Origin:
    """The only window of all images that `crop`, (C, C, 3) uint8, is, apart from its colour."""
    found = []
    for mirrored in (0, 1):
        upright = (crop[:, ::-1] if mirrored else crop).astype(int)
        added = upright[0].reshape(CROP, 1, 1, 1, 3) - _first_rows()
        for image, top, left in np.argwhere(np.ptp(added, axis=0).max(-1) == 0):
            window = cache().images["train"][image, top : top + CROP, left : left + CROP]
            shift = upright - window
            if np.ptp(shift, axis=(0, 1)).max() == 0:
                place = (int(image), int(top), int(left), mirrored)
                found.append(Origin(*place, tuple(shift[0, 0].tolist())))
    (only,) = found
    return only


@functools.cache
def _first_rows() -> np.ndarray:
    """The upper row of every window: (C, N, P, P, 3), pixel by pixel."""
    images = cache().images["train"].astype(int)
    rows = sliding_window_view(images[:, : SIZE - CROP + 1], CROP, axis=2)
    return rows.transpose(4, 0, 1, 2, 3)


def network_input(
    batch: Mapping[str, np.ndarray], mean_image: np.ndarray, *, aligned: bool, divisor: float
) -> np.ndarray:
    """What the network sees of a recorded batch: (N, C, C, 3) float64.

    Args:
        batch: image, perhaps shift, and if `aligned` offset.
        mean_image: (S, S, 3).
        aligned: subtract the mean where the crop was, not its centre.
        divisor: of the result.
    """
    crop = batch["image"].shape[1]
    middle = (len(mean_image) - crop) // 2
    places = batch["offset"] if aligned else [(middle, middle, 0)] * len(batch["image"])
    seen = []
    for image, (top, left, mirrored) in zip(batch["image"], places, strict=True):
        mean = mean_image[top : top + crop, left : left + crop]
        seen.append(image.astype(np.float64) - (mean[:, ::-1] if mirrored else mean))
    shift = batch["shift"][:, np.newaxis, np.newaxis] if "shift" in batch else 0
    return (np.stack(seen) + shift) / divisor


def ten_views(images: np.ndarray, mean_image: np.ndarray, *, aligned: bool) -> list[np.ndarray]:
    """Section 4.1: the centre and the corners of images (N, S, S, 3), and then their mirror images,
    each (N, C, C, 3) float64 as the network sees it."""
    edge, middle = SIZE - CROP, (SIZE - CROP) // 2
    places = [(middle, middle), (0, 0), (0, edge), (edge, 0), (edge, edge)]
    seen = []
    for mirrored in (0, 1):
        for top, left in places:
            window = images[:, top : top + CROP, left : left + CROP]
            batch = {
                "image": window[:, :, ::-1] if mirrored else window,
                "offset": np.array([(top, left, mirrored)] * len(images)),
            }
            seen.append(network_input(batch, mean_image, aligned=aligned, divisor=1))
    return seen


# --- steps ----------------------------------------------------------------------------------------


class Rates(NamedTuple):
    """The rates of a step: of weights, of biases and of conv1's weights."""

    weights: float
    biases: float
    conv1: float


def responses(params: Params, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """conv1's patches (N, h, w, 3, K, K) and its responses (N, h, w, width)."""
    patches = sliding_window_view(images, (KERNEL, KERNEL), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    conv1 = params["conv1"]
    return patches, np.einsum("nhwcij,ijck->nhwk", patches, conv1["kernel"]) + conv1["bias"]


def logits(params: Params, images: np.ndarray) -> np.ndarray:
    """At test: all units of fc6, and half of what they say (section 4.2)."""
    maps = np.maximum(responses(params, images)[1], 0).reshape(len(images), -1)
    units = np.maximum(maps @ params["fc6"]["kernel"] + params["fc6"]["bias"], 0) / 2
    return units @ params["fc8"]["kernel"] + params["fc8"]["bias"]


def softmax(logits: np.ndarray) -> np.ndarray:
    """By its definition."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def loss_and_gradients(
    params: Params, images: np.ndarray, labels: np.ndarray, masks: Mapping[str, np.ndarray]
) -> tuple[float, Params]:
    """The mean loss of a batch in training, and its gradients by the chain rule.

    Args:
        params: of conv1, fc6 and fc8.
        images: what the network sees, float64.
        labels: (N,).
        masks: of fc6, (N, 8), the units that stay.
    """
    mask = masks["fc6"]
    patches, maps = responses(params, images)
    flat = np.maximum(maps, 0).reshape(len(images), -1)
    sums = flat @ params["fc6"]["kernel"] + params["fc6"]["bias"]
    units = np.maximum(sums, 0) * mask
    probabilities = softmax(units @ params["fc8"]["kernel"] + params["fc8"]["bias"])
    rows = np.arange(len(images))
    loss = -np.log(probabilities[rows, labels]).mean()

    by_logits = probabilities.copy()
    by_logits[rows, labels] -= 1
    by_logits /= len(images)
    by_sums = (by_logits @ params["fc8"]["kernel"].T) * mask * (sums > 0)
    by_maps = (by_sums @ params["fc6"]["kernel"].T).reshape(maps.shape) * (maps > 0)
    return loss, {
        "conv1": {
            "kernel": np.einsum("nhwcij,nhwk->ijck", patches, by_maps),
            "bias": by_maps.sum((0, 1, 2)),
        },
        "fc6": {"kernel": flat.T @ by_sums, "bias": by_sums.sum(0)},
        "fc8": {"kernel": units.T @ by_logits, "bias": by_logits.sum(0)},
    }


def update(
    params: Params,
    velocity: Params,
    gradients: Params,
    rates: Rates,
    paces: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Params, Params]:
    """Section 5: v <- 0.9 v - 0.0005 rate w - rate g; w <- w + v. Biases do not decay
    (layer.cu:565), and at a rate of 0 a weight stands still (weights.cu:148). A layer's pace
    multiplies its rates."""

    def moved(layer: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        of_weights = rates.conv1 if layer == "conv1" else rates.weights
        rate, decay = (of_weights, 0.0005) if kind == "kernel" else (rates.biases, 0.0)
        rate *= paces.get(layer, 1.0)
        w, v, g = (tree[layer][kind] for tree in (params, velocity, gradients))
        v = 0.9 * v - decay * rate * w - rate * g
        return (w + v if rate > 0 else w), v

    pairs = {layer: {kind: moved(layer, kind) for kind in pair} for layer, pair in params.items()}
    return each(lambda pair: pair[0], pairs), each(lambda pair: pair[1], pairs)


def each(function: Callable[..., Any], *trees: Any) -> Params:
    """A function of the arrays of one or more trees, layer by layer."""
    first, *_ = trees
    return {
        layer: {kind: function(*(tree[layer][kind] for tree in trees)) for kind in pair}
        for layer, pair in first.items()
    }
