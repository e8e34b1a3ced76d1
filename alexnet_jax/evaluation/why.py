"""Why a network answers as it does: four ways to look into it, at one photo in the central view.

occlusion    a grey square is slid over the photo, and the probability of the answer is watched
             (Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2)
saliency     how steeply the logit of the answer rises or falls with each pixel
             (Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034, section 3.1)
silencing    what the answer is without that which the convolutions of a tower tell
activations  what comes out of every layer, tower by tower (section 3.5 of the paper)
"""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.trained_network import AT_ONCE, TrainedNetwork

PLACES = 15  # of the grey square, down and across
SHARE = 5  # the view's side over the square's


class Occlusion(NamedTuple):
    """What a grey square takes away from the answer, wherever it lies.

    Attributes:
        side: of the square, in pixels of the view.
        starts: (P,) int64, the distances of the squares from the top, and from the left.
        probabilities: (P, P) float64, of the answer with the square there; rows are distances from
            the top.
    """

    side: int
    starts: np.ndarray
    probabilities: np.ndarray

    @property
    def place(self) -> tuple[float, float]:
        """The middle of the square that takes away most: pixels of the view from the top, and from
        the left."""
        row, column = np.unravel_index(self.probabilities.argmin(), self.probabilities.shape)
        middles = self.starts + self.side / 2
        return float(middles[row]), float(middles[column])

    def at_pixels(self) -> np.ndarray:
        """The mean probability of all squares that cover a pixel, float64 (C, C)."""
        covered = np.arange(self.starts[-1] + self.side) - self.starts[:, None]
        weights = ((covered >= 0) & (covered < self.side)).astype(float)
        weights /= weights.sum(axis=0)
        return np.asarray(weights.T @ self.probabilities @ weights)


class Explanation(NamedTuple):
    """Why one photo got its answer.

    Attributes:
        seen: what the network saw of the photo, uint8 (C, C, 3).
        probabilities: of the classes, float64 (classes,).
        label: of the class that is explained, the answer if no other was asked for.
        occlusion: of that class's probability.
        saliency: of each pixel, float32 (C, C): the steepest of its three colours, in logits for
            a grey level.
        silenced: the probabilities without tower A and without tower B, float64 (2, classes);
            (0, classes) of a network that is one tower.
        activations: of every layer before the last, and of each tower, what comes out of it (after
            the ReLU): maps (H, W, width / towers) or units (width / towers,), float32.
    """

    seen: np.ndarray
    probabilities: np.ndarray
    label: int
    occlusion: Occlusion
    saliency: np.ndarray
    silenced: np.ndarray
    activations: dict[str, list[np.ndarray]]


def explain(network: TrainedNetwork, image: Any, label: int | None = None) -> Explanation:
    """Why a network gives its answer for a photo, in the central view.

    Looks at the photo some 230 times; it is compiled once for all photos.

    Args:
        network: which is asked.
        image: one, see `TrainedNetwork.pictures`.
        label: of the class to be explained; by default the most probable.

    Raises:
        UserError: the image cannot be used, or is several; or there is no such class.
    """
    pictures = network.pictures(image)
    if len(pictures) != 1:
        raise UserError(f"{len(pictures):,} images were given: one at a time is explained")
    classes = len(network.classes)
    if label is not None and label not in range(classes):
        raise UserError(f"label={label!r}: expected 0 to {classes - 1:,}")
    side, starts, covered = squares(network, pictures[0])
    every = _probabilities(network, np.concatenate([pictures, covered]))
    label = int(every[0].argmax()) if label is None else label
    found = every[1:, label].reshape(len(starts), len(starts))
    stages, slopes = _inspect(network, pictures, label)
    net = network.viewer.model.network
    apart = range(net.towers if net.towers > 1 else 0)
    without = [_probabilities(silenced(network, tower), pictures)[0] for tower in apart]
    layers = [*net.convolutions(), *net.hidden()]
    return Explanation(
        view_of(network, pictures[0]),
        every[0],
        label,
        Occlusion(side, starts, found),
        np.abs(slopes).max(axis=-1),
        np.array(without).reshape(len(apart), classes),
        {name: np.split(stages[network.layers[name]], net.towers, axis=-1) for name in layers},
    )


def view_of(network: TrainedNetwork, picture: np.ndarray) -> np.ndarray:
    """The central crop of a picture (S, S, 3), which the network sees of it: (C, C, 3)."""
    start, crop = network.viewer.views[0].top, network.viewer.crop
    return picture[start : start + crop, start : start + crop]


def squares(network: TrainedNetwork, picture: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """A picture with a grey square at every place of the view.

    The square has a fifth of the view's side, and the colour of the mean image, of which the
    network then sees next to nothing.

    Args:
        network: which is to look at them.
        picture: (S, S, 3) uint8.

    Returns:
        The side of the square, its P distances from the top and the left of the view, in pixels,
        and the pictures, (P * P, S, S, 3) uint8, row by row.
    """
    first, crop = network.viewer.views[0].top, network.viewer.crop
    side = max(1, crop // SHARE)
    starts = np.unique(np.linspace(0, crop - side, PLACES).round().astype(int))
    grey = np.asarray(network.viewer.mean_image).mean((0, 1)).round().astype(np.uint8)
    covered = np.repeat(picture[None], len(starts) ** 2, axis=0)
    for number, one in enumerate(covered):
        top, left = (first + starts[place] for place in divmod(number, len(starts)))
        one[top : top + side, left : left + side] = grey
    return side, starts, covered


def _probabilities(network: TrainedNetwork, pictures: np.ndarray) -> np.ndarray:
    """(N, classes) float64, so that an answer that is sure of itself is not all ones."""
    logits = network.look(["fc8"], pictures, batch_size=AT_ONCE)["fc8"].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _inspect(
    network: TrainedNetwork, pictures: np.ndarray, label: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every stage of one picture, and the gradient of a logit, (C, C, 3)."""
    viewer = network.viewer
    copies = np.repeat(pictures, viewer.mesh.shape["data"], axis=0)  # one for each device
    found = viewer.inspect(
        network.variables, jax.device_put(copies, viewer.sharding), viewer.views[0], label
    )
    stages, slopes = jax.tree.map(lambda array: np.asarray(array[0], np.float32), found)
    return stages, slopes


# --- one tower alone ------------------------------------------------------------------------------


def silenced(network: TrainedNetwork, tower: int) -> TrainedNetwork:
    """The network without that which the convolutions of a tower tell.

    The weights by which others hear its maps become zero: those of the layers that see both towers
    (conv3 in 2012), and of the first fully connected one.

    Args:
        network: of two towers.
        tower: 0 for A, 1 for B.

    Raises:
        UserError: the network is one tower.
    """
    net = network.viewer.model.network
    if net.towers == 1:
        raise UserError(f"{network.name} is a network of one tower: there is none to silence")
    params = {name: dict(pair) for name, pair in network.variables["params"].items()}
    convolutions = net.convolutions()
    for name, conv in list(convolutions.items())[1:]:
        if conv.communicates:
            params[name]["kernel"] = _without(params[name]["kernel"], 2, tower)
    first = next(iter([*net.hidden(), "fc8"]))
    kernel = jnp.asarray(params[first]["kernel"])
    if net.sees_all(first):  # maps are read place by place, and at each all channels
        width = list(convolutions.values())[-1].width
        places = kernel.reshape(-1, width, kernel.shape[-1])
        params[first]["kernel"] = _without(places, 1, tower).reshape(kernel.shape)
    else:
        params[first]["kernel"] = _without(kernel, 1, tower)
    other = copy.copy(network)
    other.variables = {**network.variables, "params": params}
    return other


def _without(kernel: Any, axis: int, tower: int) -> jax.Array:
    """The weights with one half of an axis zero."""
    half = kernel.shape[axis] // 2
    own = (*[slice(None)] * axis, slice(tower * half, (tower + 1) * half))
    return jnp.asarray(kernel).at[own].set(0)
