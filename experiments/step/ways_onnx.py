"""The network as `alexnet_jax.export` writes it in ONNX, run by onnxruntime on a CPU."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from alexnet_jax.exchange.to_onnx import network_graph
from alexnet_jax.model import Network
from experiments.step import given
from experiments.step.contender import Arrays, Contender, Failed, Params, Task, Way
from experiments.step.work import flops

# What the exported graph has around the network: pixels to maps, minus the mean image; softmax.
OUTSIDE = ("pixels/maps", "pixels/float", "input", "probabilities")


def start(task: Task) -> str:
    """Sets nothing: threads belong to a session. Says what it runs on."""
    return f"onnxruntime on cpu with {task.threads} threads"


def ways(task: Task) -> list[Way]:
    """Two: LRN by ONNX's own operator, and by a band, as it is exported."""
    if task.kind != "inference":
        return []
    group = f"{task.kind}, batch {task.batch}"
    return [
        Way(f"onnx_{lrn}", group, f"onnxruntime, LRN by {lrn}", task.kind)
        for lrn in ("window", "band")
    ]


def make(key: str, task: Task) -> Contender:
    """Gets one of the `ways` ready.

    Raises:
        Failed: it is for a CPU and float32 only.
    """
    if task.platform != "cpu" or task.dtype != "float32":
        raise Failed("onnxruntime is compared in float32 on a CPU")
    return Session(task, key.removeprefix("onnx_"))


class Session(Contender):
    """The logits of one batch."""

    def __init__(self, task: Task, lrn: str) -> None:
        network = task.network
        self.batch, self.flops = task.batch, flops(network, task.kind)
        images = given.pixels(network, task.batch).transpose(0, 3, 1, 2)
        self.images = np.ascontiguousarray(images)
        model = graph(network, given.parameters(network), task.batch, lrn)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        started = time.perf_counter()
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.compile_seconds = time.perf_counter() - started

    def step(self) -> None:
        """Computes the logits, and returns when they are there."""
        (self.logits,) = self.session.run(None, {"input": self.images})

    def wait(self) -> None:
        """Nothing is left to wait for."""

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """The logits."""
        self.step()
        return {"logits": self.logits}


def graph(network: Network, params: Params, batch: int, lrn: str) -> onnx.ModelProto:
    """The exported network without what is before its first and after its last layer.

    Args:
        network: what the layers are.
        params: kernels HWIO, units IO; the first of these over maps in HWC order.
        batch: N.
        lrn: 'window' or 'band'.

    Returns:
        A model from 'input', float32 (N, 3, S, S), to 'logits', (N, classes).
    """
    size = network.input_size
    model = network_graph(network, {"params": params}, np.zeros((size, size, 3)))
    graph = model.graph
    keep(graph.node, [node for node in graph.node if node.name not in OUTSIDE])
    keep(graph.initializer, [array for array in graph.initializer if array.name != "mean_image"])
    if lrn == "window":
        keep(graph.node, list(with_windows(graph, network)))
        keep(graph.initializer, [array for array in graph.initializer if "/norm" not in array.name])
    images = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, network.classes])
    keep(graph.input, [images])
    keep(graph.output, [logits])
    onnx.checker.check_model(model, full_check=True)
    return model


def keep(field: Any, values: list[Any]) -> None:
    """Puts these values in the place of those of a repeated field."""
    del field[:]
    field.extend(values)


def with_windows(graph: onnx.GraphProto, network: Network) -> Iterator[onnx.NodeProto]:
    """The nodes with ONNX's own LRN, once for each tower, in the place of those that begin with
    'NAME/norm'."""
    for node in graph.node:
        layer, _, part = node.name.partition("/")
        if part == "norm/squares":
            yield from windows(network, f"{layer}/norm", node.input[0])
        elif not part.startswith("norm"):
            yield node


def windows(network: Network, name: str, x: str) -> Iterator[onnx.NodeProto]:
    """The nodes that normalise the maps `x`. ONNX divides alpha by the window's size."""
    size = network.lrn_size // 2 * 2 + 1
    numbers = {
        "size": size,
        "alpha": network.lrn_alpha * size,
        "beta": network.lrn_beta,
        "bias": network.lrn_k,
    }
    count = 1 if network.lrn_across_towers else network.towers
    towers = [f"{name}/tower{tower}" for tower in range(count)]
    normal = [f"{tower}/norm" for tower in towers]
    yield helper.make_node("Split", [x], towers, name=f"{name}/towers", axis=1)
    for tower, made in zip(towers, normal, strict=True):
        yield helper.make_node("LRN", [tower], [made], name=made, **numbers)
    yield helper.make_node("Concat", normal, [name], name=name, axis=1)
