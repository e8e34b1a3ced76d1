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
    pixels = Network.from_dict(model.to_dict()).final_maps() ** 2
    model.fc6.width = model.fc7.width = fc
    model.fc6.std *= math.sqrt(6 * 6 * before / (pixels * now))
    model.fc7.std *= math.sqrt(full.fc6.width / fc)
    model.fc8_std *= math.sqrt(full.fc7.width / fc)
