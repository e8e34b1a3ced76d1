"""Weights that cannot be imported are refused in one line that names them; nothing is run or left.

What can be imported is in `test_convert`, and that nothing in a file is run in `test_traps`.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import convert_fixtures as other
import numpy as np
import onnx
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.exchange.converting import convert


def small(change: Callable[[other.SmallGraph], Any], **attributes: Any) -> other.SmallGraph:
    """A graph of one convolution and what `change` adds."""
    graph = other.SmallGraph().conv(8, 3, 5, **attributes)
    change(graph)
    return graph


def ended(graph: other.SmallGraph, inputs: int = 8 * 44 * 44) -> other.SmallGraph:
    """The same with a flattening and a last layer."""
    return graph.add("Flatten").gemm(4, inputs)


def with_weights(array: np.ndarray) -> other.SmallGraph:
    """A graph whose only convolution has these kernels."""
    graph = other.SmallGraph()
    return ended(graph.add("Conv", graph.hold(array)))


def branching(graph: other.SmallGraph) -> None:
    """The maps plus themselves, rectified."""
    maps = graph.last
    graph.add("Relu").add("Add", maps)


def without_weights(graph: other.SmallGraph) -> None:
    """A layer of constants, as in onnx's light models."""
    shape = graph.hold(np.array([8, 8, 3, 3]))
    graph.nodes.append(onnx.helper.make_node("ConstantOfShape", [shape], ["w"]))
    graph.add("Conv", "w")


def computed_weights(graph: other.SmallGraph) -> None:
    """A layer whose weights come out of another node."""
    kernel = graph.hold(np.ones((3, 3, 8, 8), np.float32))
    graph.nodes.append(onnx.helper.make_node("Transpose", [kernel], ["w"]))
    graph.add("Conv", "w")


POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
LRN = {"size": 5, "alpha": 0.1}
NAN = np.full((8, 3, 5, 5), np.nan, np.float32)
BAD_GRAPHS = {
    "the Conv 'n0' has dilations=[2, 2], expected [1, 1]": lambda: small(ended, dilations=[2, 2]),
    "the Conv 'n0' has strides=[2, 1], expected [2, 2]": lambda: small(ended, strides=[2, 1]),
    "the Conv 'n0' has pads=[1, 0, 1, 0], expected": lambda: small(ended, pads=[1, 0, 1, 0]),
    "the Conv 'n0' has auto_pad=SAME_UPPER": lambda: small(ended, auto_pad="SAME_UPPER"),
    "the Conv 'n0' has strides=[0, 0], expected [1, 1]": lambda: small(ended, strides=[0, 0]),
    "the Conv 'n1' has group=4: the two towers": lambda: small(lambda g: g.conv(8, 2, 3, group=4)),
    "the Conv 'n0' has kernels of shape (8, 3, 5, 3)": lambda: with_weights(
        np.ones((8, 3, 5, 3), np.float32)
    ),
    "t0 holds 600 numbers that are not finite": lambda: with_weights(NAN),
    "t0 is int64 of shape (8, 3, 5, 5)": lambda: with_weights(np.ones((8, 3, 5, 5), np.int64)),
    "t0 has shape (8, 4, 5, 5), expected (8, 3, 5, 5)": lambda: with_weights(
        np.ones((8, 4, 5, 5), np.float32)
    ),
    "has no weights: w is one number, repeated": lambda: small(without_weights),
    "the Conv 'n2' reads w, which the file does not hold": lambda: small(computed_weights),
    "the LRN 'n1' has size=4": lambda: small(lambda g: g.add("LRN", size=4)),
    "has lrn_alpha 0.04, a layer before it 0.02: all layers share one": lambda: small(
        lambda g: g.add("LRN", **LRN).conv(8, 8, 3).add("LRN", size=5, alpha=0.2)
    ),
    "has pool_stride 3, a layer before it 2": lambda: small(
        lambda g: (
            g.add("MaxPool", **POOL).conv(8, 8, 3).add("MaxPool", **POOL | {"strides": [3, 3]})
        )
    ),
    "has activation tanh, a layer before it relu": lambda: small(
        lambda g: g.add("Relu").conv(8, 8, 3).add("Tanh")
    ),
    "the MaxPool 'n1' stores columns before rows": lambda: small(
        lambda g: g.add("MaxPool", storage_order=1, **POOL)
    ),
    "the AveragePool 'n1' averages over maps": lambda: small(
        lambda g: g.add("AveragePool", **POOL)
    ),
    "the Elu 'n1' is nothing that this network does": lambda: small(lambda g: g.add("Elu")),
    "the Relu 'n1' and the Add 'n2' read the same value": lambda: small(branching),
    "the Relu 'n2' comes after activation of the same": lambda: small(
        lambda g: g.add("Relu").add("Relu")
    ),
    "the Relu 'n2' comes after dropout": lambda: small(lambda g: g.add("Dropout").add("Relu")),
    "the Dropout 'n1' drops a share of 1": lambda: small(
        lambda g: g.add("Dropout", g.hold(np.float32(1)))
    ),
    "the Dropout 'n1' is in training mode": lambda: small(
        lambda g: g.add("Dropout", g.hold(np.float32(0.5)), g.hold(np.array(True)))
    ),
    "the Reshape 'n1' makes the shape [1, 8, 1936]": lambda: small(
        lambda g: g.add("Reshape", g.hold(np.array([1, 8, 1936])))
    ),
    "the Flatten 'n1' has axis=2": lambda: small(lambda g: g.add("Flatten", axis=2)),
    "the LRN 'n2' comes after the maps were flattened": lambda: small(
        lambda g: g.add("Flatten").add("LRN", **LRN)
    ),
    "the Conv 'n2' is one more than": lambda: small(lambda g: g.add("Flatten").conv(8, 8, 3)),
    "the Gemm 'n1' comes before the maps": lambda: small(lambda g: g.gemm(4, 8)),
    "the Gemm 'n2' has alpha=2, expected 1": lambda: small(
        lambda g: g.add("Flatten").add("Gemm", g.hold(NAN[0, 0]), alpha=2.0)
    ),
    "t2 has shape (4, 100), expected (4, 15488)": lambda: small(lambda g: ended(g, 100)),
    "the Gemm 'n5' is a fourth": lambda: small(lambda g: ended(g).gemm(4, 4).gemm(4, 4).gemm(4, 4)),
    "the Conv 'n6' is one more than this network's six": lambda: small(
        lambda g: [g.conv(8, 8, 3) for _ in range(6)]
    ),
    "model.conv1: a kernel of 5": lambda: ended(other.SmallGraph(4).conv(8, 3, 5)),
    "has no fully connected layer": lambda: small(lambda g: g.add("Relu")),
    "has activation after its last layer": lambda: small(lambda g: ended(g).add("Relu")),
    "the Softmax 'n3' has axis=0": lambda: small(lambda g: ended(g).add("Softmax", axis=0)),
    "the Relu 'n4' comes after the Softmax": lambda: small(
        lambda g: ended(g).add("Softmax").add("Relu")
    ),
    "the Relu 'n0' comes before the first": lambda: other.SmallGraph().add("Relu"),
    "expected images (N, 3, S, S)": lambda: other.SmallGraph(0).add("Relu"),
}


@pytest.mark.parametrize("message", BAD_GRAPHS)
def test_graphs_that_this_network_cannot_be(message: str, tmp_path: Path) -> None:
    """Each is refused by the node's name with the reason, and nothing is left behind."""
    path = BAD_GRAPHS[message]().save(tmp_path / "bad.onnx", checked=False)
    refused(path, message)


def refused(path: Path, message: str, **options: Any) -> None:
    """The file is named in one line, with the message, and no directory is made."""
    with pytest.raises(UserError) as info:
        convert(path, path.parent / "w", **options)
    text = str(info.value)
    assert message in text and str(path) in text and "\n" not in text, text
    assert [p for p in path.parent.iterdir() if p.is_dir()] == []


def test_damaged_graphs(tmp_path: Path) -> None:
    """Truncated, empty, something else, with weights elsewhere, or with too few of them."""
    path = other.bvlc_like().save(tmp_path / "a.onnx")
    whole = path.read_bytes()
    for name, content in {"cut": whole[:-1000], "empty": b"", "text": b"<html>404</html>"}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(tmp_path / f"{name}.onnx", "cannot be read as ONNX")
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    onnx.save(model, path)
    refused(path, "onnx")
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/passwd")
    path.write_bytes(model.SerializeToString())
    refused(path, "keeps t0 in another file")
    model = onnx.load(path, load_external_data=False)
    kernel = model.graph.initializer.pop(0)  # of the first convolution; now a node gives it
    node = onnx.helper.make_node("Constant", [], [kernel.name], value=kernel)
    model.graph.node.insert(0, node)
    path.write_bytes(model.SerializeToString())
    refused(path, "keeps t0 in another file")
    del model.graph.node[0]
    weights = onnx.helper.make_tensor_value_info("t0", onnx.TensorProto.FLOAT, list(kernel.dims))
    model.graph.input.append(weights)
    path.write_bytes(model.SerializeToString())
    refused(path, "does it lack the numbers of t0?")


def test_half_precision_is_read_without_a_warning(tmp_path: Path) -> None:
    """Its largest number is far below the largest that is allowed."""
    narrow = {name: np.float16(array) for name, array in other.torchvision_arrays().items()}
    path = other.saved(narrow, tmp_path / "w.safetensors")
    assert convert(path, tmp_path / "w")["classes"] == len(narrow["classifier.6.bias"])
    narrow["features.8.bias"][3] = np.inf
    path = other.saved(narrow, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"features.8.bias holds 1 numbers that are not finite"):
        convert(path, tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("features.3.bias", None, "has no tensor features.3.bias, as torchvision's alexnet has"),
        ("features.1.weight", np.ones(3, np.float32), "has a tensor features.1.weight, which"),
        (
            "features.0.weight",
            np.ones((8, 3, 7, 7), np.float32),
            "features.0.weight has shape (8, 3, 7, 7), expected (O, I, 11, 11)",
        ),
        (
            "features.6.weight",
            np.ones((16, 10, 3, 3), np.float32),
            "features.6.weight has shape (16, 10, 3, 3), expected (16, 12, 3, 3)",
        ),
        (
            "classifier.1.weight",
            np.ones((32, 8), np.float32),
            "classifier.1.weight has shape (32, 8), expected (32, 288)",
        ),
        ("classifier.4.bias", np.ones(5, np.float32), "the bias of classifier.4.weight has shape"),
        ("features.8.weight", np.ones(5, np.float32), "features.8.weight has shape (5,)"),
        ("features.8.bias", np.array([], np.float32), "features.8.bias is float32 of shape (0,)"),
        ("features.8.bias", np.ones(12, np.int32), "features.8.bias is int32 of shape (12,)"),
        ("features.8.bias", np.full(12, np.inf, np.float32), "features.8.bias holds 12 numbers"),
    ],
)
def test_wrong_tensors(
    name: str,
    array: np.ndarray | None,
    message: str,
    tmp_path: Path,
) -> None:
    """Missing, unexpected, misshapen, empty, not numbers, not finite: the tensor is named."""
    changed = {
        k: v for k, v in {**other.torchvision_arrays(), name: array}.items() if v is not None
    }
    refused(other.saved(changed, tmp_path / "w.safetensors"), message)


def test_what_is_no_state_dict(reference: ModuleType, tmp_path: Path) -> None:
    """A whole module, a list, other values, other weights, a truncated or an empty file."""
    import torch

    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    refused(path, "as torchvision's alexnet has; it has bias, weight")
    torch.save([1, 2], path)
    refused(path, "holds a list, expected a state dict")
    torch.save({"features.0.weight": 3}, path)
    refused(path, "features.0.weight is int, expected a tensor")
    torch.save({"conv.weight": torch.ones(2).to_sparse()}, path)
    refused(path, "conv.weight is torch.float32, expected a tensor")
    torch.save({"layer1.weight": torch.ones(2)}, path)
    refused(path, "has no tensor features.0.weight, as torchvision's alexnet has; it has layer1.we")
    torch.save(
        {name: torch.tensor(array) for name, array in other.torchvision_arrays().items()}, path
    )
    whole = path.read_bytes()
    for content in (whole[:-2000], whole[:2000], b"", b"<html>404</html>"):
        path.write_bytes(content)
        refused(path, "is no plain state dict")
        path.with_suffix(".safetensors").write_bytes(content)
        refused(path.with_suffix(".safetensors"), "cannot be read as safetensors")


def test_libraries_that_are_missing_or_old(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install, and what does without."""
    import torch

    for suffix in (".pth", ".onnx", ".safetensors"):
        (tmp_path / f"w{suffix}").write_bytes(b"x")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    refused(tmp_path / "w.pth", "CVE-2025-32434")
    for name in ("torch", "onnx", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(tmp_path / "w.pth", "pip install torch, or give the weights as .safetensors")
    refused(tmp_path / "w.onnx", "pip install onnx")
    refused(tmp_path / "w.safetensors", "pip install safetensors")


def test_other_refusals(tmp_path: Path) -> None:
    """An unknown suffix, an output in use, a mean image that does not fit."""
    (tmp_path / "w.h5").write_bytes(b"x")
    refused(
        tmp_path / "w.h5",
        ".onnx, .pth, .pt, .pth.tar, .ckpt, .bin, .safetensors, .caffemodel, .npy",
    )
    graph = other.bvlc_like(dropout=0).save(tmp_path / "w.onnx")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none.onnx", tmp_path / "w")
    mean = tmp_path / "mean.npy"
    for array, message in (
        (np.ones((3, 4, 5)), "has shape (4, 5, 3), expected (S, S, 3) or (3, S, S), BGR"),
        (np.array({}), "is no .npy file of numbers"),
        (np.full((256, 256, 3), np.nan), "not finite"),
    ):
        np.save(mean, array, allow_pickle=True)
        with pytest.raises(UserError, match=re.escape(message)):
            convert(graph, tmp_path / "w", mean_file=mean)
    with mean.open("wb") as file:
        np.savez(file, a=np.ones(2), b=np.ones(2))
    with pytest.raises(UserError, match="holds several arrays"):
        convert(graph, tmp_path / "w", mean_file=mean)
    with pytest.raises(UserError, match="belongs to --pixels=caffe, not to RGB pixels"):
        convert(graph, tmp_path / "w", mean_file=mean, pixels="torchvision")
    assert not (tmp_path / "w").exists()
    for out in (tmp_path, graph):
        with pytest.raises(UserError, match="is in use"):
            convert(graph, out)
    (tmp_path / "empty").mkdir()
    convert(graph, tmp_path / "empty")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == [
        "checkpoints", "config.json", "converted.json", "input"
    ]  # fmt: skip
