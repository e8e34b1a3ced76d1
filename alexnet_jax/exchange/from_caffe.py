"""The weights and the layers of a Caffe network: a `.caffemodel`, such as BVLC's AlexNet.

It holds the network as it was trained, with the weights in its layers, in the old form (V1) or the
new. Names mean nothing here either: every layer that computes says what a node of an ONNX graph
says, so that the network becomes such a graph, in memory, and is read as one by `from_onnx`. What
serves training alone, the losses and the layers that bring images, is left out; but the latter say
how large the images are, and what is done to their pixels.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.exchange import caffe_messages
from alexnet_jax.exchange.caffe_messages import V1_TYPES, array_of, known, refuse
from alexnet_jax.exchange.from_onnx import weights_of
from alexnet_jax.exchange.weights import PIXELS, Weights

SIDE = 227  # of the images, pixels, in both of BVLC's networks: for a file that does not say
OPSET = 11  # of the graph: the last in which Dropout's rate is an attribute
MEASURES = {"Accuracy", "Silence"}  # beside the losses, whose names end so
MAX = 0  # PoolingParameter.PoolMethod


def read(path: Path) -> Weights:
    """The weights in a `.caffemodel` file.

    Raises:
        UserError: onnx or protobuf is missing, the file is damaged, or holds no such network.
    """
    net = caffe_messages.read("NetParameter", path)
    layers = [*net.layers, *net.layer]
    if not layers:
        raise UserError("holds no layers: expected a network that Caffe has trained")
    if any(layer.HasField("layer") for layer in net.layers):
        raise UserError(
            "is in Caffe's first format (V0): make it a newer one by Caffe's own "
            "upgrade_net_proto_binary OLD NEW"
        )
    for layer in layers:
        named = (layer.name, type_of(layer), *layer.bottom, *layer.top)
        if not all(isinstance(text, str) and text.isprintable() for text in named):
            raise UserError(f"has a layer {layer.name!r} with a name that is no text")
    images = images_of(net, layers)
    found = weights_of(graph_of(layers, images.side or (SIDE, SIDE)))
    size = "" if images.side else f", which do not say how large images are: {SIDE} pixels"
    return found._replace(
        format=f"Caffe network of {len(layers)} layers{size}",
        pixels="caffe",
        seen=PIXELS["caffe"]._replace(**images.seen),
        mean_file=images.mean_file,
    )


class Images(NamedTuple):
    """What a network says of the images that it takes.

    Attributes:
        side: height and width, pixels; None if nothing says so.
        seen: the fields of `Pixels` that it sets.
        mean_file: the name that the mean image had, or ''.
    """

    side: tuple[int, int] | None
    seen: Mapping[str, Any]
    mean_file: str


def images_of(net: Any, layers: Sequence[Any]) -> Images:
    """What a `NetParameter` says, and those of its layers that bring images.

    Raises:
        UserError: a scale or a mean that cannot be.
    """
    sides = [list(net.input_dim[2:4]), *(list(shape.dim[2:]) for shape in net.input_shape)]
    seen: dict[str, Any] = {}
    mean_file = ""
    for layer in (layer for layer in layers if not layer.bottom):
        memory, shapes = layer.memory_data_param, layer.input_param.shape
        sides += [[memory.height, memory.width], *(list(shape.dim[2:]) for shape in shapes)]
        for said in (
            layer.transform_param,
            layer.data_param,
            layer.image_data_param,
            layer.window_data_param,
        ):
            sides.append([said.crop_size] * 2)
            mean_file = mean_file or said.mean_file.decode(errors="replace")
            if said.scale != 1:
                if not 1e-6 < said.scale < 1e6:
                    refuse(layer, f"multiplies pixels by {said.scale:g}")
                seen["divisor"] = (1 / said.scale,) * 3
        if mean := list(layer.transform_param.mean_value):
            if len(mean) not in (1, 3) or not all(abs(value) < 1000 for value in mean):
                refuse(layer, f"subtracts {mean}, expected one number, or one of each channel")
            seen["mean"] = tuple(mean * 3 if len(mean) == 1 else mean[::-1])  # BGR to RGB
    side = next(((s[0], s[1]) for s in sides if len(s) == 2 and min(s) > 0), None)
    return Images(side, seen, mean_file)


def type_of(layer: Any) -> str:
    """What a layer does, by the name that this has in the new form."""
    if layer.DESCRIPTOR.name == "LayerParameter":
        return layer.type
    return V1_TYPES.get(layer.type, f"layer of type {layer.type}")


def graph_of(layers: Sequence[Any], side: tuple[int, int]) -> Any:
    """An `onnx.ModelProto` that computes the same.

    Args:
        layers: `LayerParameter` or `V1LayerParameter`.
        side: height and width of the images, pixels.

    Raises:
        UserError: onnx is missing, or a layer says what no node can.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ModuleNotFoundError as error:
        raise UserError("a .caffemodel file needs onnx: pip install onnx") from error
    nodes: list[Any] = []
    tensors: dict[str, Any] = {}
    values: dict[str, str] = {}  # what a blob holds now: a layer may write where it reads
    flat = False
    for number, layer in enumerate(layers):
        kind = type_of(layer)
        if not layer.bottom or kind in MEASURES or kind.endswith("Loss"):
            continue  # brings images, or serves training
        inputs = [values.get(blob, blob) for blob in layer.bottom]
        if kind == "Split" and len(inputs) == 1:  # which Caffe adds where several read one blob
            values |= dict.fromkeys(layer.top, *inputs)
            continue
        node = node_of(layer)
        if kind == "InnerProduct" and not flat:
            nodes.append(helper.make_node("Flatten", inputs, [f"{number}/flat"], name=layer.name))
            inputs = [f"{number}/flat"]
        flat = flat or kind in ("InnerProduct", "Flatten")
        for name, array in weights_in(layer, node.dimensions):
            if name in tensors:
                refuse(layer, "has the name of another one")
            tensors[name] = numpy_helper.from_array(array, name)
            inputs.append(name)
        outputs = [f"{number} {blob}" for blob in layer.top]
        values |= zip(layer.top, outputs, strict=True)
        name = layer.name or f"layer {number}"
        nodes.append(helper.make_node(node.kind, inputs, outputs, name=name, **node.attributes))
    read_by = dict.fromkeys(name for node in nodes for name in node.input)
    made_by = dict.fromkeys(name for node in nodes for name in node.output)
    images = [name for name in read_by if name not in made_by.keys() | tensors.keys()]
    values_of = functools.partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "caffe",
        [values_of(name, shape=[1, 3, *side]) for name in images],
        [values_of(name, shape=None) for name in made_by if name not in read_by],
        list(tensors.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


class Node(NamedTuple):
    """What a layer says, as a node says it."""

    kind: str
    attributes: Mapping[str, Any] = {}
    dimensions: int = 0  # of its kernels, if it has some; its bias has one


def node_of(layer: Any) -> Node:
    """The node that computes what a layer does; of an unknown type, one of that type.

    Raises:
        UserError: the layer says what no node can.
    """
    match type_of(layer):
        case "Convolution":
            conv = known(layer, "convolution_param")
            if conv.axis != 1:
                refuse(layer, f"has axis={conv.axis}, expected 1")
            dilations = [*conv.dilation] * (2 if len(conv.dilation) == 1 else 1) or [1, 1]
            return Node("Conv", {"group": conv.group, "dilations": dilations, **window(conv)}, 4)
        case "InnerProduct":
            dense = known(layer, "inner_product_param")
            if dense.axis != 1:
                refuse(layer, f"has axis={dense.axis}, expected 1")
            return Node("Gemm", {"transB": int(not dense.transpose)}, 2)
        case "LRN":
            lrn = known(layer, "lrn_param")
            if lrn.norm_region:
                refuse(layer, "normalises within maps (norm_region), expected across channels")
            return Node(
                "LRN",
                {"size": lrn.local_size, "alpha": lrn.alpha, "beta": lrn.beta, "bias": lrn.k},
            )
        case "Pooling":
            pool = known(layer, "pooling_param")
            if pool.pool != MAX or pool.global_pooling:
                refuse(layer, "pools otherwise than by the largest of a small window")
            if pool.HasField("round_mode"):  # of BVLC's; others have ceil_mode there
                refuse(layer, "says in field 13 how it rounds: Caffes differ in what that means")
            return Node("MaxPool", {"ceil_mode": 1, **window(pool)})
        case "Dropout":
            dropout = known(layer, "dropout_param")
            if not dropout.scale_train:
                refuse(layer, "scales at test (scale_train: false), expected in training")
            return Node("Dropout", {"ratio": dropout.dropout_ratio})
        case "ReLU":
            if slope := known(layer, "relu_param").negative_slope:
                refuse(layer, f"has negative_slope={slope:g}, expected 0")
            return Node("Relu")
        case "TanH":
            return Node("Tanh")
        case "Flatten":
            flatten = known(layer, "flatten_param")
            if flatten.end_axis != -1:
                refuse(layer, f"has end_axis={flatten.end_axis}, expected -1")
            return Node("Flatten", {"axis": flatten.axis})
        case "Softmax":
            return Node("Softmax", {"axis": known(layer, "softmax_param").axis})
        case kind:
            return Node(kind)


def window(found: Any) -> dict[str, list[int]]:
    """The geometry of a convolution or a pool: a number for both axes, one for each, or by name."""

    def pair(field: str, name: str, default: int) -> list[int]:
        given = [*getattr(found, field)]
        if not given:
            axes = [f"{name}_h", f"{name}_w"]
            named = any(found.HasField(axis) for axis in axes)
            given = [getattr(found, axis) for axis in axes] if named else [default]
        return given * 2 if len(given) == 1 else given

    return {
        "kernel_shape": pair("kernel_size", "kernel", 0),
        "strides": pair("stride", "stride", 1),
        "pads": pair("pad", "pad", 0) * 2,
    }


def weights_in(layer: Any, dimensions: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the kernels and the bias of a layer, with names.

    Args:
        layer: the layer.
        dimensions: of its kernels; 0 if it should have none.

    Raises:
        UserError: there are others.
    """
    if not dimensions:
        return
    if not 1 <= len(layer.blobs) <= 2:
        refuse(layer, f"holds {len(layer.blobs)} arrays, expected kernels and a bias")
    for blob, count, which in zip(layer.blobs, (dimensions, 1), ("kernels", "bias")):
        name = f"{layer.name} {which}"
        array = array_of(blob, name)
        shape = array.shape
        if len(shape) < count or set(shape[:-count]) - {1}:  # the old form has always four
            refuse(layer, f"holds {which} of shape {shape}, expected {count} dimensions")
        yield name, array.reshape(shape[-count:])


def read_mean(path: Path) -> np.ndarray:
    """A mean image, (3, S, S) in BGR order as Caffe has it, in a `.binaryproto` file.

    Raises:
        UserError: it cannot be read as one.
    """
    image = array_of(caffe_messages.read("BlobProto", path), "the image")
    return image[0] if image.ndim == 4 and len(image) == 1 else image
