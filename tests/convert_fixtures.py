"""Weights as other programs keep them, and those programs' own answers about pictures.

The graph of the BVLC AlexNet is that of the onnx package, filled with random weights; torchvision's
alexnet is written here once more. Each answer goes through the other side's own preprocessing.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors import numpy as safetensors

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
WIDTHS = (8, 12, 16, 12, 8, 32, 24, 10)  # of a small alexnet of torchvision's
FULL_WIDTHS = (64, 192, 384, 256, 256, 4096, 4096, 1000)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """(N, 256, 256, 3) uint8, no two alike: coarse and fine structure, and a colour of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 180, (count, 16, 16, 3)) + rng.uniform(0, 60, (count, 1, 1, 3))
    large = coarse.repeat(16, axis=1).repeat(16, axis=2)
    return np.uint8(np.clip(large + rng.normal(0, 12, large.shape), 0, 255))


def centre(images: np.ndarray, size: int) -> np.ndarray:
    """The central crops."""
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


def seen_by_caffe(images: np.ndarray, size: int) -> np.ndarray:
    """Crops of RGB pictures as Caffe feeds them: (N, 3, S, S), BGR, minus the mean pixel."""
    bgr = centre(images, size)[..., ::-1].astype(np.float64)
    mean = (104.00698793, 116.66876762, 122.67891434)
    return np.float32((bgr - mean).transpose(0, 3, 1, 2))


def seen_by_torchvision(images: np.ndarray, size: int = 224) -> np.ndarray:
    """The same as torchvision's ToTensor and Normalize give them."""
    scaled = centre(images, size).astype(np.float64) / 255
    normal = (scaled - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return np.float32(normal.transpose(0, 3, 1, 2))


def drawn(shape: Sequence[int], rng: np.random.Generator, first: float = 1.0) -> np.ndarray:
    """Kernels (O, I, ...) that keep the size of what they see; `first` is 1 over that of pixels."""
    std = first * math.sqrt(2 / math.prod(shape[1:]))
    return np.float32(std) * rng.standard_normal(shape, np.float32)


def run_onnx(path: Path, inputs: np.ndarray, output: str | None = None) -> np.ndarray:
    """What onnxruntime computes, an image at a time; of an inner value if its name is given."""
    model = onnx.load(path)
    if output is not None:
        del model.graph.output[:]
        model.graph.output.append(helper.make_empty_tensor_value_info(output))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in inputs])


def fill_light(path: Path) -> str:
    """Writes the BVLC AlexNet with random weights for its ConstantOfShape; the logits' name."""
    model = onnx.load(LIGHT)
    rng = np.random.default_rng(0)
    kept = []
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = shapes[node.input[0]].tolist()
        first = 1 / 60 if shape[1:] == [3, 11, 11] else 1.0
        array = drawn(shape, rng, first) if len(shape) > 1 else rng.normal(0, 0.1, shape)
        weights = numpy_helper.from_array(np.float32(array), node.output[0])
        model.graph.initializer.append(weights)
    model.ir_version = 8  # from 4 on weights are no inputs
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for values in (model.graph.initializer, model.graph.input):
        for value in [v for v in values if v.name.endswith("__SHAPE")]:
            values.remove(value)
    onnx.save(model, path)
    return kept[-1].input[0]


class SmallGraph:
    """A graph node by node, with names that mean nothing."""

    def __init__(self, size: int = 48, seed: int = 0, opset: int = 12) -> None:
        """A graph that takes pictures of `size` pixels and does nothing yet."""
        self.size, self.opset = size, opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.last = "v"

    def hold(self, array: np.ndarray) -> str:
        """Stores an array; its name."""
        name = f"t{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> "SmallGraph":
        """Adds a node after the last one."""
        output = f"x{len(self.nodes)}"
        name = f"n{len(self.nodes)}"
        node = helper.make_node(kind, [self.last, *inputs], [output], name=name, **attributes)
        self.nodes.append(node)
        self.last = output
        return self

    def conv(self, width: int, inputs: int, size: int, **attributes: Any) -> "SmallGraph":
        """A convolution whose kernels see `inputs` channels."""
        first = 1 / 60 if inputs == 3 else 1.0
        kernel = self.hold(drawn((width, inputs, size, size), self.rng, first))
        bias = self.hold(np.float32(self.rng.normal(0, 0.1, width)))
        return self.add("Conv", kernel, bias, **attributes)

    def gemm(self, width: int, inputs: int) -> "SmallGraph":
        """A fully connected layer."""
        kernel = self.hold(drawn((width, inputs), self.rng))
        return self.add("Gemm", kernel, self.hold(np.zeros(width, np.float32)), transB=1)

    def save(self, path: Path, *, checked: bool = True) -> Path:
        """Writes it."""
        shape = [1, 3, self.size, self.size]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("v", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["images", "classes"])],
            self.stored,
        )
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        if checked:
            onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def bvlc_like(
    order: str = "Relu LRN MaxPool",
    groups: int = 2,
    dropout: float = 0.5,
    opset: int = 12,
    over_conv4: bool = False,
) -> SmallGraph:
    """A small network of all eight layers; `order` is what follows conv1 and conv2."""
    graph = SmallGraph(opset=opset)
    attributes: dict[str, dict[str, Any]] = {
        "LRN": {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 1.0},  # strong, so that it matters
        "MaxPool": {"kernel_shape": [3, 3], "strides": [2, 2]},
    }

    def then(words: str) -> None:
        for word in words.split():
            graph.add(word, **attributes.get(word, {}))

    def drop() -> None:
        if dropout and opset < 12:
            graph.add("Dropout", ratio=dropout)
        elif dropout:
            graph.add("Dropout", graph.hold(np.float32(dropout)))

    graph.conv(8, 3, 7, strides=[2, 2])  # 48 to 21
    then(order)  # 10
    graph.conv(12, 8 // groups, 5, pads=[2, 2, 2, 2], group=groups)
    then(order)  # 4
    graph.conv(16, 12, 3, pads=[1, 1, 1, 1])
    then("Relu")
    graph.conv(16, 16 // groups, 3, pads=[1, 1, 1, 1], group=groups)
    then("Relu")
    if over_conv4:
        drop()
    graph.conv(8, 16 // groups, 3, pads=[1, 1, 1, 1], group=groups)
    then("Relu")
    graph.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])  # 2
    graph.add("Reshape", graph.hold(np.array([1, 32])))
    graph.gemm(24, 32)
    then("Relu")
    drop()
    graph.gemm(16, 24)
    then("Relu")
    drop()
    graph.gemm(10, 16)
    return graph.add("Softmax")


def short(end: str = "Softmax") -> SmallGraph:
    """Two convolutions of one tower and one layer after them: the other forms of everything."""
    graph = SmallGraph(opset=13)
    graph.conv(6, 3, 5, strides=[3, 3], pads=[1, 1, 2, 2], auto_pad="NOTSET").add("Tanh")
    graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)  # 16 to 8
    graph.conv(9, 6, 4).add("Tanh")  # 5
    graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)  # 3: rounded up
    graph.add("AveragePool", kernel_shape=[1, 1]).add("Identity")
    graph.add("Flatten")
    graph.add("Dropout", constant(graph, np.float32(0.2)))
    kernel = graph.hold(drawn((81, 7), graph.rng))
    graph.add("Gemm", kernel)
    return graph.add(end) if end else graph


def constant(graph: SmallGraph, array: np.ndarray) -> str:
    """An array in a node of its own; its name."""
    name = f"c{len(graph.nodes)}"
    tensor = numpy_helper.from_array(array)
    graph.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
    return name


def torchvision_arrays(widths: Sequence[int] = WIDTHS, seed: int = 0) -> dict[str, np.ndarray]:
    """The state dict of torchvision's alexnet, with random weights."""
    rng = np.random.default_rng(seed)
    *convolutions, _, _, _ = widths
    arrays: dict[str, np.ndarray] = {}
    inputs = 3
    for number, width in enumerate(widths):
        if number < len(convolutions):
            name = f"features.{(0, 3, 6, 8, 10)[number]}"
            shape = (width, inputs, *((11, 5, 3, 3, 3)[number],) * 2)
        else:
            name = f"classifier.{(1, 4, 6)[number - 5]}"
            shape = (width, inputs * (36 if number == 5 else 1))
        arrays[f"{name}.weight"] = drawn(shape, rng)
        arrays[f"{name}.bias"] = np.float32(rng.normal(0, 0.1, width))
        inputs = width
    return arrays


def saved(arrays: dict[str, np.ndarray], path: Path) -> Path:
    """As .safetensors."""
    safetensors.save_file(arrays, path)
    return path


def torchvision_alexnet(arrays: dict[str, np.ndarray]) -> Any:
    """torchvision/models/alexnet.py with a state dict, in `eval` mode; needs torch."""
    import torch
    from torch import nn

    c1, c2, c3, c4, c5, f6, f7, classes = (
        len(array) for name, array in arrays.items() if name.endswith("weight")
    )
    layers = nn.ModuleDict({
        "features": nn.Sequential(
            nn.Conv2d(3, c1, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(c1, c2, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(c2, c3, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c3, c4, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c4, c5, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        ),
        "avgpool": nn.AdaptiveAvgPool2d((6, 6)),
        "classifier": nn.Sequential(
            nn.Dropout(),
            nn.Linear(c5 * 6 * 6, f6),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(f6, f7),
            nn.ReLU(),
            nn.Linear(f7, classes),
        ),
    })  # fmt: skip
    layers.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return layers.eval()


def run_torch(layers: Any, inputs: np.ndarray) -> np.ndarray:
    """The logits."""
    import torch

    with torch.no_grad():
        maps = layers["avgpool"](layers["features"](torch.tensor(inputs)))
        return layers["classifier"](maps.flatten(1)).numpy()
