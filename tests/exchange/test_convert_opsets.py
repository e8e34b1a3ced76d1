"""Graphs of every opset that the ONNX model zoo has its AlexNet in, as Caffe2 exported them."""

from pathlib import Path

import convert_fixtures as other
import network_fixtures as fixtures
import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import helper, numpy_helper

import alexnet_jax
from alexnet_jax.errors import UserError
from alexnet_jax.exchange.converting import convert
from alexnet_jax.model import make_mesh


def aged(path: Path, opset: int) -> Path:
    """A graph of opset 11 as it was written for an older one, beside it.

    Weights are inputs as well; before 7 Gemm and Dropout say more, before 6 everything does, before
    5 the new shape is an attribute, and in 3 Gemm flattens the maps itself.
    """
    model = onnx.load(path)
    graph = model.graph
    model.opset_import[0].version, model.ir_version = opset, 3
    for tensor in graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        graph.input.append(value)

    def say(node: onnx.NodeProto, **attributes: object) -> None:
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())

    for node in list(graph.node):
        if opset < 7 and node.op_type == "Gemm":
            say(node, broadcast=1)
        if opset < 7 and node.op_type == "Dropout":
            say(node, is_test=1)
        if opset < 6 and node.op_type in ("Relu", "Dropout"):
            say(node, consumed_inputs=[0])
        if opset < 5 and node.op_type == "Reshape":
            (shape,) = [t for t in graph.initializer if t.name == node.input[1]]
            say(node, shape=numpy_helper.to_array(shape).tolist())
            del node.input[1]
            (value,) = [v for v in graph.input if v.name == shape.name]
            graph.input.remove(value)
            graph.initializer.remove(shape)
            if opset < 4:
                (after,) = [n for n in graph.node if node.output[0] in n.input]
                after.input[0] = node.input[0]
                graph.node.remove(node)
    onnx.checker.check_model(model)
    found = path.with_name(f"opset{opset}.onnx")
    onnx.save(model, found)
    return found


@pytest.mark.parametrize("opset", [3, 4, 6, 7, 8, 9])
def test_old_opsets(opset: int, tmp_path: Path) -> None:
    """The same network. Of the old file onnxruntime says the same, which reads them from 7 on, and
    6 by onnx's own conversion; 3 and 4 nobody else reads any more."""
    graph = other.bvlc_like(opset=11)
    new = graph.save(tmp_path / "new.onnx")
    path = aged(new, opset)
    pictures = other.pictures(2)
    inputs = other.seen_by_caffe(pictures, 48)
    logits = graph.nodes[-1].input[0]
    expected = other.run_onnx(new, inputs, logits)
    if opset == 6:
        onnx.save(onnx.version_converter.convert_version(onnx.load(path), 9), tmp_path / "9.onnx")
    if opset >= 6:
        witness = tmp_path / "9.onnx" if opset == 6 else path
        np.testing.assert_allclose(other.run_onnx(witness, inputs, logits), expected, 1e-4, 1e-5)
    convert(path, tmp_path / "w")
    found = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1)).logits(pictures)
    assert fixtures.difference(found, expected) < 1e-4


def test_training_mode_was_the_default(tmp_path: Path) -> None:
    """Until opset 7 a Dropout that does not say that it is a test drops units."""
    path = aged(other.bvlc_like(opset=11).save(tmp_path / "new.onnx"), 6)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "Dropout")
    node.attribute.remove(next(a for a in node.attribute if a.name == "is_test"))
    onnx.save(model, path)
    with pytest.raises(UserError, match=f"the Dropout '{node.name}' is in training mode"):
        convert(path, tmp_path / "w")


@pytest.mark.parametrize("kind", ["QLinearConv", "QGemm", "DequantizeLinear", "ConvInteger"])
def test_whole_numbers(kind: str, tmp_path: Path) -> None:
    """The zoo's -int8 and -qdq files: the float file is named."""
    graph = other.bvlc_like()
    scale, zero = graph.hold(np.float32(0.1)), graph.hold(np.uint8(0))
    inputs = ["v", scale, zero] if kind != "QLinearConv" else ["v", scale, zero, "v"] + [scale] * 4
    node = helper.make_node(kind, inputs, ["q"], name="first")
    if kind == "QGemm":
        node.domain = "com.microsoft"
    graph.nodes.insert(0, node)
    path = graph.save(tmp_path / "a.onnx", checked=False)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    message = f"the {kind} 'first' computes with whole numbers of 8 bits: .*bvlcalexnet-12.onnx"
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "w")
