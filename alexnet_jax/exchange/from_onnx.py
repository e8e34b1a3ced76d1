"""The weights and the layers of an ONNX graph, such as the BVLC AlexNet of the ONNX model zoo.

Names mean nothing here. The graph is walked from its input to its output; every node has to be
something that a `Network` can do, with every attribute, or is refused by name with the reason.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.exchange.onnx_graph import Chain, attributes, load, refuse
from alexnet_jax.exchange.weights import Layer, Weights

ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
WINDOW: dict[str, Any] = {  # attributes of all windows over maps
    "auto_pad": "NOTSET",
    "dilations": None,
    "kernel_shape": None,
    "pads": None,
    "strides": None,
}


def read(path: Path) -> Weights:
    """The weights in an ONNX file.

    Raises:
        UserError: onnx is missing, the file is damaged, or its graph is no such network.
    """
    return weights_of(load(path))


def weights_of(model: Any) -> Weights:
    """The weights in an `onnx.ModelProto`.

    Raises:
        UserError: its graph is no such network.
    """
    chain = Chain(model)
    found = Found(chain)
    for node in chain.nodes():
        found.add(node)
    return found.weights()


class Found:
    """The layers of a graph, node by node."""

    def __init__(self, chain: Chain) -> None:
        """Starts before the first node."""
        self.chain = chain
        self.layers: list[Layer] = []
        self.shared: dict[str, Any] = {}  # fields of `Network`
        self.side = chain.side  # of the maps, pixels
        self.flat: int | None = None  # values of an image, once there are no maps; -1: all
        self.ended = False

    def add(self, node: Any) -> None:
        """Takes one node in.

        Raises:
            UserError: this network has no such thing.
        """
        methods: dict[str, Callable[[Any], Any]] = {
            "Conv": self.convolution,
            "Gemm": self.dense,
            "LRN": self.norm,
            "MaxPool": self.pool,
            "AveragePool": self.average_pool,
            "Reshape": self.reshape,
            "Flatten": self.flatten,
            "Dropout": self.dropout,
            "Softmax": self.softmax,
            "Identity": attributes,
            **dict.fromkeys(ACTIVATIONS, self.activation),
        }
        if node.domain not in ("", "ai.onnx") or node.op_type not in methods:
            refuse(node, "is nothing that this network does")
        if self.ended:
            refuse(node, "comes after the Softmax")
        methods[node.op_type](node)

    def convolution(self, node: Any) -> None:
        """A convolutional layer."""
        if self.flat is not None or len(self.layers) == 6:
            refuse(node, "is one more than this network's six, before its fully connected layers")
        found = attributes(node, group=1, **WINDOW)
        kernel = self.chain.weights(node, 1)
        if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
            refuse(node, f"has kernels of shape {kernel.shape}, expected square ones")
        if found["kernel_shape"] not in (None, list(kernel.shape[2:])):
            refuse(node, f"has kernel_shape={found['kernel_shape']}, its kernels {kernel.shape}")
        groups = found["group"]
        if groups not in ((1, 2) if self.layers else (1,)):
            allowed = "the two towers are two groups" if self.layers else "all see the image"
            refuse(node, f"has group={groups}: {allowed}")
        stride, padding = self.window(node, found, kernel.shape[2])
        bias = self.bias(node, len(kernel))
        self.layers.append(Layer(node.input[1], kernel, bias, stride, padding, groups))

    def dense(self, node: Any) -> None:
        """A fully connected layer."""
        if self.flat is None and self.chain.opset < 7:
            self.flat = -1  # until then, Caffe2's exporter let it flatten the maps itself
        if self.flat is None or not self.layers:
            refuse(node, "comes before the maps of a convolution were flattened")
        if sum(not layer.convolves for layer in self.layers) == 3:
            refuse(node, "is a fourth fully connected layer")
        # That the bias is of every image was to be said until opset 7.
        found = attributes(node, alpha=1.0, beta=1.0, transA=0, transB=0, broadcast=1)
        for name, expected in {"alpha": 1, "beta": 1, "transA": 0}.items():
            if found[name] != expected:
                refuse(node, f"has {name}={found[name]:g}, expected {expected}")
        kernel = self.chain.weights(node, 1)
        kernel = kernel if found["transB"] else kernel.T
        if kernel.ndim != 2 or self.flat not in (-1, kernel.shape[1]):
            refuse(node, f"has weights of shape {kernel.shape} for {self.flat} values")
        self.layers.append(Layer(node.input[1], kernel, self.bias(node, len(kernel))))
        self.flat = len(kernel)

    def bias(self, node: Any, width: int) -> np.ndarray:
        """Returns the bias of a layer; zeros where it has none."""
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(width, np.float32)
        bias = self.chain.weights(node, 2)
        return bias[0] if bias.shape == (1, width) else bias

    def activation(self, node: Any) -> None:
        """Takes an activation in, which has to be the same in all layers."""
        attributes(node)
        self.share(node, "activation", ACTIVATIONS[node.op_type])
        self.follow(node, "activation")

    def norm(self, node: Any) -> None:
        """Local response normalisation, which sees all channels here."""
        found = attributes(node, size=None, alpha=1e-4, beta=0.75, bias=1.0)
        size, alpha, beta, k = found.values()
        if size < 1 or size % 2 == 0:
            refuse(node, f"has size={size}: a channel is in the middle of an odd window")
        if not (0 <= alpha < math.inf and 0 <= beta < math.inf and 0 < k < math.inf):
            refuse(node, f"has alpha={alpha:g}, beta={beta:g}, bias={k:g}, expected 0 or more")
        self.share(node, "norm", "lrn")
        self.share(node, "lrn_across_towers", True)
        self.share(node, "lrn_size", size)
        self.share(node, "lrn_k", k)
        self.share(node, "lrn_alpha", alpha / size)
        self.share(node, "lrn_beta", beta)
        self.follow(node, "norm")

    def pool(self, node: Any) -> None:
        """Max pooling; where it rounds up, it sees what padding would show it."""
        found = attributes(node, ceil_mode=0, storage_order=0, **WINDOW)
        window, *_ = shape = found["kernel_shape"] or [0]
        if shape != [window] * 2 or window < 1:
            refuse(node, f"has kernel_shape={shape}, expected a square")
        if found["storage_order"]:
            refuse(node, "stores columns before rows")
        stride, padding = self.window(node, found, window)
        self.share(node, "pool_window", window)
        self.share(node, "pool_stride", stride)
        self.follow(node, "pool")
        self.layers[-1].pool_padding = padding

    def average_pool(self, node: Any) -> None:
        """What is left of torchvision's AdaptiveAvgPool: averages of one pixel each."""
        found = attributes(node, ceil_mode=0, count_include_pad=0, **WINDOW)
        if found["kernel_shape"] != [1, 1] or self.window(node, found, 1) != (1, (0, 0)):
            refuse(node, "averages over maps, which this network does not")

    def window(self, node: Any, found: dict[str, Any], size: int) -> tuple[int, tuple[int, int]]:
        """Stride and padding of a window over maps, which it also takes to their next size."""
        if self.flat is not None:
            refuse(node, "comes after the maps were flattened")
        if found["auto_pad"] not in ("NOTSET", "VALID"):
            refuse(node, f"has auto_pad={found['auto_pad']}: give the pads in numbers")
        strides, pads = found["strides"] or [1, 1], found["pads"] or [0, 0, 0, 0]
        stride, before, after = strides[0], pads[0], pads[-1]
        for name, values, expected in (
            ("dilations", found["dilations"] or [1, 1], [1, 1]),
            ("strides", strides, [max(1, stride)] * 2),
            ("pads", pads, [max(0, before)] * 2 + [max(0, after)] * 2),
        ):
            if values != expected:
                refuse(node, f"has {name}={values}, expected {expected}")
        padded = before + self.side + after
        if found.get("ceil_mode"):
            count = -(-(padded - size) // stride) + 1
            count -= (count - 1) * stride >= before + self.side  # no window outside of the maps
            after += max(0, (count - 1) * stride + size - padded)
            padded = before + self.side + after
        self.side = (padded - size) // stride + 1
        return stride, (before, after)

    def reshape(self, node: Any) -> None:
        """Takes in the way from maps to one row of values for each image."""
        given = attributes(node, allowzero=0, shape=None)["shape"]  # until opset 5
        shape = np.array(given) if given else self.chain.stored(node, 1)
        if shape.shape != (2,) or self.flat is not None:
            refuse(node, f"makes the shape {shape.tolist()}, expected a row for each image")
        self.flat = int(shape[1])

    def flatten(self, node: Any) -> None:
        """Takes in what `reshape` does, by its name."""
        axis = attributes(node, axis=1)["axis"]
        if axis != 1 or self.flat is not None:
            refuse(node, f"has axis={axis}, expected 1, once")
        self.flat = -1

    def dropout(self, node: Any) -> None:
        """Dropout; of a rate of 0, nothing."""
        at_test = int(self.chain.opset >= 7)  # before, the graph had to say so
        found = attributes(node, ratio=0.5, seed=0, is_test=at_test)
        rate = found["ratio"]
        given = [number for number, name in enumerate(node.input) if name]
        if 1 in given:
            rate = self.chain.number(node, 1)
        if not found["is_test"] or (2 in given and self.chain.number(node, 2)):
            refuse(node, "is in training mode")
        if not 0 <= rate < 1:
            refuse(node, f"drops a share of {rate:g}, expected 0 to less than 1")
        if rate:
            self.share(node, "dropout", rate)
            self.follow(node, "dropout")

    def softmax(self, node: Any) -> None:
        """The end."""
        axis = attributes(node, axis=1 if self.chain.opset < 13 else -1)["axis"]
        if axis not in (1, -1):
            refuse(node, f"has axis={axis}, expected 1")
        self.ended = True

    def follow(self, node: Any, word: str) -> None:
        """Adds a word to what follows the last layer."""
        if not self.layers:
            refuse(node, "comes before the first convolution")
        after = self.layers[-1].after
        if word in after or "dropout" in after:
            refuse(node, f"comes after {', '.join(after)} of the same layer")
        if word == "norm" and self.flat is not None:
            refuse(node, "comes after the maps were flattened")
        after.append(word)

    def share(self, node: Any, field: str, value: Any) -> None:
        """Sets a field of the network that all layers share."""
        if self.shared.setdefault(field, value) != value:
            before = self.shared[field]
            refuse(node, f"has {field} {value}, a layer before it {before}: all layers share one")

    def weights(self) -> Weights:
        """The layers, when all nodes were taken in.

        Raises:
            UserError: they do not end as a classifier does.
        """
        if not self.layers or self.layers[-1].convolves:
            raise UserError("has no fully connected layer at its end")
        if self.layers[-1].after:
            after = ", ".join(self.layers[-1].after)
            raise UserError(f"has {after} after its last layer, expected Softmax or nothing")
        shared = {"norm": "none", "dropout": 0.0, **self.shared}
        kind = f"ONNX graph of {len(self.chain.graph.node)} nodes"
        # Caffe's AlexNet has both; without, it may be torchvision's, whose pixels are others.
        is_caffes = "norm" in self.shared or any(layer.groups == 2 for layer in self.layers)
        pixels = "caffe" if is_caffes else None
        return Weights(kind, self.layers, self.chain.side, pixels, shared)
