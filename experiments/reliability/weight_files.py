"""One small network's weights in every form that `convert` reads, to be damaged."""

import io
from pathlib import Path
from typing import Any

import numpy as np

WIDTHS = (8, 12, 16, 12, 8, 32, 24, 10)  # of the layers, conv1 to fc8


def torchvision_arrays() -> dict[str, np.ndarray]:
    """A state dict in the shapes of torchvision's alexnet, narrower."""
    rng = np.random.default_rng(0)
    c1, c2, c3, c4, c5, f6, f7, classes = WIDTHS
    shapes = {
        "features.0": (c1, 3, 11, 11),
        "features.3": (c2, c1, 5, 5),
        "features.6": (c3, c2, 3, 3),
        "features.8": (c4, c3, 3, 3),
        "features.10": (c5, c4, 3, 3),
        "classifier.1": (f6, c5 * 36),
        "classifier.4": (f7, f6),
        "classifier.6": (classes, f7),
    }
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = rng.normal(0, 0.05, shape).astype(np.float32)
        found[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return found


def caffe_graph() -> bytes:
    """An ONNX graph in the form of the BVLC AlexNet, narrower."""
    import onnx
    from onnx import helper, numpy_helper

    c1, c2, c3, c4, c5, f6, f7, classes = WIDTHS
    rng = np.random.default_rng(0)
    nodes, arrays, last = [], [], "data"

    def node(kind: str, *more: np.ndarray, **attributes: Any) -> None:
        nonlocal last
        names = [f"n{len(nodes)}_{i}" for i in range(len(more))]
        arrays.extend(numpy_helper.from_array(a, n) for a, n in zip(more, names, strict=True))
        nodes.append(helper.make_node(kind, [last, *names], [f"n{len(nodes)}"], **attributes))
        last = f"n{len(nodes) - 1}"

    def weights(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        kernel = rng.normal(0, 0.05, shape).astype(np.float32)
        return kernel, np.zeros(shape[0], np.float32)

    def convolution(shape: tuple[int, ...], stride: int, pad: int, group: int) -> None:
        side, strides, pads = shape[-1], [stride] * 2, [pad] * 4
        shapes = {"kernel_shape": [side] * 2, "strides": strides, "pads": pads, "group": group}
        node("Conv", *weights(*shape), **shapes)
        node("Relu")

    def norm_and_pool(*, norm: bool = True) -> None:
        if norm:
            node("LRN", size=5, alpha=1e-4, beta=0.75, bias=1.0)
        node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4)

    convolution((c1, 3, 11, 11), 4, 0, 1)
    norm_and_pool()
    convolution((c2, c1 // 2, 5, 5), 1, 2, 2)
    norm_and_pool()
    convolution((c3, c2, 3, 3), 1, 1, 1)
    convolution((c4, c3 // 2, 3, 3), 1, 1, 2)
    convolution((c5, c4 // 2, 3, 3), 1, 1, 2)
    norm_and_pool(norm=False)
    node("Flatten")
    for shape in ((f6, c5 * 36), (f7, f6)):
        node("Gemm", *weights(*shape), transB=1)
        node("Relu")
    node("Gemm", *weights(classes, f7), transB=1)
    node("Softmax", axis=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "alexnet",
        [value("data", onnx.TensorProto.FLOAT, [1, 3, 227, 227])],
        [value(last, onnx.TensorProto.FLOAT, [1, classes])],
        arrays,
    )
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def bvlc_arrays() -> dict[str, list[np.ndarray]]:
    """[kernel, bias] of each layer of BVLC's AlexNet as caffe-tensorflow has them, narrower."""
    rng = np.random.default_rng(0)
    c1, c2, c3, c4, c5, f6, f7, classes = WIDTHS
    shapes = {
        "conv1": (11, 11, 3, c1),
        "conv2": (5, 5, c1 // 2, c2),
        "conv3": (3, 3, c2, c3),
        "conv4": (3, 3, c3 // 2, c4),
        "conv5": (3, 3, c4 // 2, c5),
        "fc6": (c5 * 36, f6),
        "fc7": (f6, f7),
        "fc8": (f7, classes),
    }
    return {
        name: [rng.normal(0, 0.05, shape).astype(np.float32), np.zeros(shape[-1], np.float32)]
        for name, shape in shapes.items()
    }


def caffemodel() -> bytes:
    """The same as Caffe keeps it."""
    from alexnet_jax.exchange.caffe_messages import classes

    net: Any = classes()["NetParameter"]()
    data = net.layer.add(name="data", type="Input", top=["data"])
    data.input_param.shape.add(dim=[1, 3, 227, 227])
    last = "data"

    def add(kind: str, name: str) -> Any:
        nonlocal last
        layer = net.layer.add(name=name, type=kind, bottom=[last], top=[name])
        last = name
        return layer

    geometry = {"conv1": (4, 0, 1), "conv2": (1, 2, 2), "conv3": (1, 1, 1)}
    for name, arrays in bvlc_arrays().items():
        kernel, bias = arrays
        layer = add("Convolution" if kernel.ndim == 4 else "InnerProduct", name)
        if kernel.ndim == 4:
            stride, pad, group = geometry.get(name, (1, 1, 2))
            says = layer.convolution_param
            says.num_output, says.group = len(bias), group
            says.kernel_size.append(len(kernel))
            says.stride.append(stride)
            says.pad.append(pad)
        else:
            layer.inner_product_param.num_output = len(bias)
        stored = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        for array in (stored, bias):
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data = array.astype("<f4").tobytes()
        if name != "fc8":
            add("ReLU", f"{name} relu")
        if name in ("conv1", "conv2"):
            norm = add("LRN", f"{name} norm").lrn_param
            norm.local_size, norm.alpha, norm.beta = 5, 1e-4, 0.75
        if name in ("conv1", "conv2", "conv5"):
            pool = add("Pooling", f"{name} pool").pooling_param
            pool.kernel_size.append(3)
            pool.stride.append(2)
    return bytes(net.SerializeToString())


def weight_files() -> dict[str, bytes]:
    """The same small network's weights in every form that can be read here, by suffix."""
    from safetensors.numpy import save

    arrays = torchvision_arrays()
    by_numpy = io.BytesIO()
    np.save(by_numpy, np.array(bvlc_arrays(), object), allow_pickle=True)
    found = {
        ".safetensors": save(arrays),
        ".onnx": caffe_graph(),
        ".caffemodel": caffemodel(),
        ".npy": by_numpy.getvalue(),
    }
    try:
        import torch
    except ModuleNotFoundError:
        return found
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(tensors, zipped)
    torch.save({"state_dict": tensors}, old, _use_new_zipfile_serialization=False)
    return found | {".pth": zipped.getvalue(), ".pt": old.getvalue()}


def exported_folder(folder: Path) -> dict[str, bytes]:
    """What `export --format=torch` writes of such a network: the two files that are read again."""
    from safetensors.numpy import save_file

    from alexnet_jax import load
    from alexnet_jax.exchange import torch_folder
    from alexnet_jax.exchange.converting import convert

    save_file(torchvision_arrays(), folder / "a.safetensors")
    convert(folder / "a.safetensors", folder / "a", pixels="torchvision")
    torch_folder.write(load(folder / "a"), folder / "exported")
    files = (torch_folder.WEIGHTS, torch_folder.CONFIG)
    return {name: (folder / "exported" / name).read_bytes() for name in files}
