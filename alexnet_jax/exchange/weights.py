"""Weights that another program has trained, as this network takes them.

`from_onnx`, `from_caffe`, `from_numpy` and `from_torch` read files; what they find is a list of
layers in the layouts of Caffe and PyTorch. Here it becomes a `Network` and its parameters, with
everything that the other program does in another way folded into the kernels:

* the input: here RGB pixels 0..255 minus a mean image; there perhaps BGR, or divided by something;
* dropout: here units are multiplied by 1 - rate at test (section 4.2), there they are divided by it
  in training. The kernels after a dropout times 1 / (1 - rate) are the same function in both.

The function is the same, at test and in training. The steps of training would not be: a layer whose
kernels were multiplied by c learns 1 / c ** 2 times as fast, in the units it had there. Its rate
and its decay make up for that (`learning_as_before`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.model import Network

LARGEST = 1e30  # a weight; float32 has room left to fold something into it
Params = dict[str, dict[str, np.ndarray]]


class Pixels(NamedTuple):
    """What a network wants to see: (pixels 0..255 - mean) / divisor, channels in some order."""

    order: str  # of the channels there: 'RGB' or 'BGR'
    mean: tuple[float, float, float]  # red, green, blue
    divisor: tuple[float, float, float]

    def __str__(self) -> str:
        scaled = ", divided by their deviation"
        if len(set(self.divisor)) == 1:
            scaled = "" if self.divisor[0] == 1 else f", divided by {self.divisor[0]:g}"
        return f"{self.order} pixels minus their mean{scaled}"


PIXELS = {
    # ilsvrc_2012_mean.npy, averaged over the image; Caffe reads images by OpenCV.
    "caffe": Pixels("BGR", (122.67891434, 116.66876762, 104.00698793), (1.0, 1.0, 1.0)),
    # (pixels / 255 - mean) / std, from torchvision's AlexNet_Weights.
    "torchvision": Pixels(
        "RGB",
        (255 * 0.485, 255 * 0.456, 255 * 0.406),
        (255 * 0.229, 255 * 0.224, 255 * 0.225),
    ),
}


@dataclasses.dataclass
class Layer:
    """A layer as a file has it.

    Attributes:
        name: of its kernels there, for messages.
        kernel: (O, I / groups, K, K), or of a fully connected layer (O, I). The inputs of the
            first of those are maps in the order (channels, rows, columns).
        bias: (O,).
        after: words of `Conv.after` or `Dense.after`, in order.
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    after: list[str] = dataclasses.field(default_factory=list)
    pool_padding: tuple[int, int] = (0, 0)

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution; else it is fully connected."""
        return self.kernel.ndim == 4


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
        format: of the file, for people.
        layers: in order; convolutions first.
        input_size: pixels.
        pixels: the one of `PIXELS` that such files are made for; None if that cannot be told.
        shared: the fields of `Network` that are no layer's own.
        seen: those pixels, where the file itself says what is done to them.
        mean_file: the name of the mean image that it was trained with, if the file has that.
    """

    format: str
    layers: list[Layer]
    input_size: int
    pixels: str | None
    shared: dict[str, Any]
    seen: Pixels | None = None
    mean_file: str = ""


def numbers(name: str, array: np.ndarray) -> np.ndarray:
    """The array, if it can be weights.

    Raises:
        UserError: it is empty, holds no floating-point numbers, or some that no weight can be.
    """
    if array.dtype.kind != "f" or not array.size:
        raise UserError(f"{name} is {array.dtype} of shape {array.shape}, expected numbers")
    usable = np.abs(array) <= min(LARGEST, float(np.finfo(array.dtype).max))
    if not usable.all():
        raise UserError(
            f"{name} holds {(~usable).sum():,} numbers that are not finite, or beyond {LARGEST:g}"
        )
    return array


def network_of(weights: Weights) -> Network:
    """The network that the layers make.

    Raises:
        UserError: a network that cannot be, or an array that does not fit into it.
    """
    convolutions = [layer for layer in weights.layers if layer.convolves]
    *hidden, last = weights.layers[len(convolutions) :]
    default = Network()
    towers = max(layer.groups for layer in convolutions)
    fields: dict[str, Any] = {}
    for number in range(6):
        name = f"conv{number + 1}"
        conv = dataclasses.replace(getattr(default, name), width=0)
        if number < len(convolutions):
            layer = convolutions[number]
            communicates = number > 0 and layer.groups == 1 if towers == 2 else conv.communicates
            conv = dataclasses.replace(
                conv,
                width=len(layer.kernel),
                kernel=layer.kernel.shape[-1],
                stride=layer.stride,
                padding=layer.padding,
                communicates=communicates,
                after=" ".join(layer.after),
                pool_padding=layer.pool_padding,
            )
        fields[name] = conv
    for number, name in enumerate(("fc6", "fc7")):
        dense = dataclasses.replace(getattr(default, name), width=0)
        if number < len(hidden):
            layer = hidden[number]
            after = " ".join(layer.after)
            dense = dataclasses.replace(dense, width=len(layer.kernel), after=after)
        fields[name] = dense
    try:
        network = Network(
            classes=len(last.kernel),
            input_size=weights.input_size,
            towers=towers,
            **fields,
            **weights.shared,
        )
    except ValueError as error:
        raise UserError(f"no such network can be: {error}") from error
    _check_shapes(weights.layers, network.final_maps())
    return network


def _check_shapes(layers: list[Layer], side: int) -> None:
    inputs = 3
    flat = False
    for layer in layers:
        expected: tuple[int, ...] = (len(layer.kernel), inputs // layer.groups)
        if layer.convolves:
            expected += (layer.kernel.shape[-1],) * 2
        elif not flat:
            flat, expected = True, (len(layer.kernel), inputs * side * side)
        if layer.kernel.shape != expected:
            raise UserError(f"{layer.name} has shape {layer.kernel.shape}, expected {expected}")
        if layer.bias.shape != expected[:1]:
            raise UserError(
                f"the bias of {layer.name} has shape {layer.bias.shape}, expected {expected[:1]}, "
                f"one number for each of its {expected[0]:,} rows: one of the two is not complete"
            )
        inputs = len(layer.kernel)


def learning_as_before(network: Network, pixels: Pixels) -> Network:
    """The network whose kernels learn as they did before `params_of` multiplied them.

    Gradient descent on s times a kernel, at s² times the rate and 1 / s² times the decay, is that
    on the kernel. Without it conv1 of torchvision, whose kernels are divided by 58, would learn at
    3,300 times the rate.

    Args:
        network: made of the weights.
        pixels: what they were trained to see.
    """
    changed: dict[str, Any] = {}
    layers: Mapping[str, Any] = network.layers()
    square = len(pixels.divisor) / sum(divisor**2 for divisor in pixels.divisor)
    for name, layer in layers.items():
        units = {"rate": layer.rate * square, "decay": layer.decay / square}
        rounded = {field: float(f"{value:.4g}") for field, value in units.items()}
        changed[name] = dataclasses.replace(layer, **rounded)
        square = (1 - network.dropout) ** -2 if "dropout" in layer.after else 1.0
    return dataclasses.replace(network, **changed)


def params_of(weights: Weights, network: Network, pixels: Pixels) -> tuple[Params, list[str]]:
    """The network's parameters in float32 (what is folded in is so in float64), and what that was.

    Args:
        weights: what a file holds.
        network: made of them.
        pixels: what they were trained to see.
    """
    names = [*network.convolutions(), *network.hidden(), "fc8"]
    params: Params = {}
    folded = []
    flat = False
    scale = 1.0
    for name, layer in zip(names, weights.layers, strict=True):
        kernel = layer.kernel
        if layer.convolves:
            kernel = kernel.transpose(2, 3, 1, 0)  # OIHW to HWIO
        elif flat:
            kernel = kernel.T
        else:
            flat, side = True, network.final_maps()
            maps = kernel.reshape(len(kernel), -1, side, side).transpose(2, 3, 1, 0)
            kernel = maps.reshape(-1, len(kernel))  # CHW to HWC
        if name == "conv1":
            if pixels.order == "BGR":
                kernel = kernel[:, :, ::-1]
                folded.append("conv1: the input channels in the order RGB")
            if set(pixels.divisor) != {1.0}:
                kernel = kernel / np.array(pixels.divisor)[:, None]
                shown = ", ".join(f"{divisor:.2f}" for divisor in pixels.divisor)
                folded.append(f"conv1: the kernels divided by {shown} (red, green, blue)")
        if scale != 1:
            kernel = np.float64(scale) * kernel
            folded.append(f"{name}: the kernels times {scale:g}, after dropout")
        bias = layer.bias.astype(np.float32)
        params[name] = {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias}
        scale = 1 / (1 - network.dropout) if "dropout" in layer.after else 1.0
    return params, folded


def count(params: Mapping[str, Mapping[str, Any]]) -> int:
    """How many numbers there are in parameters, by layer and kind."""
    return sum(array.size for pair in params.values() for array in pair.values())
