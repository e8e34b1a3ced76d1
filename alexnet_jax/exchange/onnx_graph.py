"""An ONNX file as a chain of nodes, with the numbers that it stores."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.exchange.weights import numbers


def load(path: Path) -> Any:
    """The `onnx.ModelProto` of a file, checked by onnx.

    Raises:
        UserError: onnx is missing, or the file is damaged or keeps its weights in another one.
    """
    try:
        import onnx
        from onnx.external_data_helper import uses_external_data
    except ModuleNotFoundError as error:
        raise UserError("an .onnx file needs onnx: pip install onnx") from error
    try:
        model = onnx.load(path, load_external_data=False)
        elsewhere = [t.name for t in _tensors(model.graph) if uses_external_data(t)]
        if not elsewhere:
            onnx.checker.check_model(model)
    except Exception as error:  # of protobuf, and of the checker
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot be read as ONNX: {text[:300]}") from error
    if elsewhere:
        raise UserError(
            f"keeps {elsewhere[0] or 'a tensor'} in another file; make it one by "
            "onnx.save(onnx.load(PATH), OTHER_PATH)"
        )
    return model


def _tensors(graph: Any) -> Iterator[Any]:
    """Yields all that a graph stores: its own, and those in attributes of nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            if inner.ByteSize():
                yield from _tensors(inner)


class Chain:
    """A graph whose nodes follow one another.

    Attributes:
        start: the name of its input.
        side: of the images that it takes, pixels.
        opset: the version of the operators.
    """

    def __init__(self, model: Any) -> None:
        """Takes what `load` gives.

        Raises:
            UserError: it does not take images, or computes with whole numbers.
        """
        self.graph = model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        for node in self.graph.node:
            if re.search("[Qq]uantize|^Q[A-Z]|Integer$", node.op_type):
                refuse(
                    node,
                    "computes with whole numbers of 8 bits: give the float file that this one was "
                    "made from (of the model zoo's bvlcalexnet-12-int8.onnx, bvlcalexnet-12.onnx)",
                )
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.held = {tensor.name: tensor for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in self.held]
        shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
        if len(inputs) > 1:
            first, *others = (value.name for value in inputs)
            raise UserError(
                f"takes {first} and {', '.join(others)}, expected images alone: does it lack the "
                f"numbers of {others[0]}?"
            )
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or not 0 < shape[2] == shape[3]:
            names = ", ".join(value.name for value in inputs) or "nothing"
            raise UserError(f"takes {names} of shape {shape}, expected images (N, 3, S, S)")
        self.start, self.side = inputs[0].name, shape[2]

    def nodes(self) -> Iterator[Any]:
        """Yields the nodes from the input to the output.

        Raises:
            UserError: they are not one after the other.
        """
        readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        value = self.start
        while value in readers:
            node, *others = readers[value]
            if others:
                both = f"{_label(node)} and {_label(others[0])}"
                raise UserError(f"{both} read the same value: this network has no branches")
            if node.input[0] != value or any(name in readers for name in node.output[1:]):
                refuse(node, "is no step of a chain")
            yield node
            value = node.output[0]
        outputs = [output.name for output in self.graph.output]
        if outputs != [value]:
            raise UserError(f"gives {', '.join(outputs)}, which is not where its layers end")

    def stored(self, node: Any, index: int) -> np.ndarray:
        """An input of a node that the file holds.

        Raises:
            UserError: it does not, or it is damaged.
        """
        from onnx import numpy_helper

        name = node.input[index] if index < len(node.input) else ""
        tensor, maker = self.held.get(name), self.makers.get(name)
        if tensor is None and maker is not None and maker.op_type == "Constant":
            tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
        if tensor is None:
            if maker is not None and maker.op_type == "ConstantOfShape":
                raise UserError(f"has no weights: {name} is one number, repeated (ConstantOfShape)")
            refuse(node, f"reads {name or 'nothing'}, which the file does not hold as numbers")
        try:
            return numpy_helper.to_array(tensor)
        except Exception as error:  # of its many ways to store numbers
            raise UserError(f"{name} is damaged: {error}") from error

    def weights(self, node: Any, index: int) -> np.ndarray:
        """Returns a stored array of floating-point numbers that are finite."""
        return numbers(node.input[index], self.stored(node, index))

    def number(self, node: Any, index: int) -> float:
        """Returns a stored number."""
        array = self.stored(node, index)
        if array.size != 1 or array.dtype.kind not in "fiub":
            refuse(node, f"reads {node.input[index]} of shape {array.shape}, expected one number")
        return decimal(array.item())


def attributes(node: Any, **known: Any) -> dict[str, Any]:
    """A node's attributes, or their defaults.

    Raises:
        UserError: it has one that is not among `known`.
    """
    from onnx.helper import get_attribute_value

    for attribute in node.attribute:
        if attribute.name == "consumed_inputs":
            continue  # until opset 6: a hint about memory
        if attribute.name not in known:
            refuse(node, f"has an attribute {attribute.name}, which this network has not")
        value = get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        known[attribute.name] = decimal(value) if isinstance(value, float) else value
    return known


def refuse(node: Any, reason: str) -> NoReturn:
    """Raises the error that names the node."""
    raise UserError(f"{_label(node)} {reason}")


def _label(node: Any) -> str:
    return f"the {node.op_type} {node.name or node.output[0]!r}"


def decimal(value: float) -> float:
    """The shortest number that a float32 may have been: 0.0001 for 9.999999747378752e-05."""
    return float(str(np.float32(value)))
