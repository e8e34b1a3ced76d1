"""A smaller network that learns at the full one's learning rates."""

import math

from ml_collections import ConfigDict

from alexnet_jax.model import Network


def shrink(model: ConfigDict, *, conv: float, fc: int) -> None:
    """Multiplies the kernels of every layer by `conv` and gives fc6 and fc7 `fc` units.

    The initial standard deviations grow with the square root by which the fan-in shrank, so that
    the logits differ between images as much as the full network's do (a std of 0.04): at the
    printed values a small network does not leave chance. Changes `model` in place; call it after
    changing kernels or the input's size.
    """
    full = Network()
    names = [f"conv{i}" for i in range(1, 6)]
    before, now = 3, 3  # channels that come in, in 2012 and here
    for name in names:
        layer, original = model[name], getattr(full, name)
        layer.width = round(original.width * conv)
        fan_in = original.kernel**2 * before
        fan_in_here = layer.kernel**2 * now
        layer.std *= math.sqrt(fan_in / fan_in_here)
        before, now = original.width, layer.width
    pixels = final_maps(model) ** 2
    model.fc6.width = model.fc7.width = fc
    model.fc6.std *= math.sqrt(6 * 6 * before / (pixels * now))
    model.fc7.std *= math.sqrt(full.fc6.width / fc)
    model.fc8_std *= math.sqrt(full.fc7.width / fc)


def final_maps(model: ConfigDict) -> int:
    """The side, in pixels, of the maps that go into fc6."""
    size = model.input_size
    for name in [f"conv{i}" for i in range(1, 6)]:
        layer = model[name]
        size = (size + sum(layer.padding) - layer.kernel) // layer.stride + 1
        if "pool" in layer.after.split():
            size = (size + sum(layer.pool_padding) - model.pool_window) // model.pool_stride + 1
    return size
