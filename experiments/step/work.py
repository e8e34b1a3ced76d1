"""The shapes of the network's layers, and the work that they are."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alexnet_jax.model import Conv, Network


class Convolution(NamedTuple):
    """A convolutional layer in its place."""

    name: str
    layer: Conv
    groups: int
    kernel: tuple[int, int, int, int]  # HWIO
    maps: tuple[int, int]  # side and number of the maps that come in
    side: int  # of the maps that it makes
    stages: list[tuple[str, int]]  # what follows, each with the side of the maps that it is given


def convolutions(network: Network) -> Iterator[Convolution]:
    """The convolutional layers, in order."""
    side, channels = network.input_size, 3
    for name, layer in network.convolutions().items():
        groups = 1 if name == "conv1" or layer.communicates else network.towers
        kernel = (layer.kernel, layer.kernel, channels // groups, layer.width)
        maps = (side, channels)
        made = side = (side + sum(layer.padding) - layer.kernel) // layer.stride + 1
        stages = []
        for stage in layer.after.split():
            stages.append((stage, side))
            if stage == "pool":
                padded = side + sum(layer.pool_padding)
                side = (padded - network.pool_window) // network.pool_stride + 1
        channels = layer.width
        yield Convolution(name, layer, groups, kernel, maps, made, stages)


def denses(network: Network) -> dict[str, tuple[int, int]]:
    """The shapes of the fully connected layers' kernels, (inputs, units), by their names."""
    inputs = network.final_maps() ** 2 * list(network.convolutions().values())[-1].width
    widths = {name: layer.width for name, layer in network.hidden().items()}
    shapes = {}
    for name, width in (widths | {"fc8": network.classes}).items():
        shapes[name] = (inputs, width)
        inputs = width
    return shapes


def rows_in_chw(kernel: np.ndarray, side: int) -> np.ndarray:
    """A kernel over maps in HWC order as one over maps of that side in CHW order."""
    hwc = kernel.reshape(side, side, -1, kernel.shape[-1])
    return hwc.transpose(2, 0, 1, 3).reshape(kernel.shape)


def rows_in_hwc(kernel: np.ndarray, side: int) -> np.ndarray:
    """A kernel over maps in CHW order as one over maps of that side in HWC order."""
    chw = kernel.reshape(-1, side, side, kernel.shape[-1])
    return chw.transpose(1, 2, 0, 3).reshape(kernel.shape)


def flops(network: Network, kind: str) -> float:
    """Counts the operations of the products for an image: a multiplication and an addition are two.

    Training takes three times the forward pass (the gradients by the inputs and by the weights),
    less conv1's gradient by the image, which nobody needs.
    """
    forward = {conv.name: conv_flops(conv) for conv in convolutions(network)}
    forward |= {name: 2.0 * inputs * units for name, (inputs, units) in denses(network).items()}
    once = sum(forward.values())
    return once if kind == "inference" else 3 * once - forward["conv1"]


def conv_flops(conv: Convolution) -> float:
    """Counts the operations of one convolution's forward pass for an image."""
    return 2.0 * float(np.prod(conv.kernel)) * conv.side**2


def lrn_band(network: Network, channels: int) -> np.ndarray:
    """LRN's sums as a matrix (channels, channels), float32: alpha where two channels are near each
    other and in the same tower. For LRN as a 1x1 convolution of the squares."""
    channel = np.arange(channels)
    tower = channel // (channels // network.towers)
    near = np.abs(channel[:, None] - channel) <= network.lrn_size // 2
    band = network.lrn_alpha * (near & (tower[:, None] == tower))
    return band.astype(np.float32)
