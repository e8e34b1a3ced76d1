"""The network as `alexnet_jax.export` writes it in ONNX, run by onnxruntime on a CPU."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.exchange.to_onnx import network_graph
from alexnet_jax.model import Network
from experiments.step import given
from experiments.step.contender import Arrays, Contender, Failed, Params, Task, Way
from experiments.step.work import flops, lrn_band

# What the exported graph has around the network: pixels to maps, minus the mean image; softmax.
OUTSIDE = ("pixels/maps", "pixels/float", "input", "probabilities")


def start(task: Task) -> str:
    """Sets nothing: threads belong to a session. Says what it runs on."""
    return f"onnxruntime on cpu with {task.threads} threads"


def ways(task: Task) -> list[Way]:
    """Two: LRN by ONNX's own operator, and as a banded 1x1 convolution."""
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
    if lrn == "band":
        keep(graph.node, list(with_bands(graph, network)))
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


def with_bands(graph: onnx.GraphProto, network: Network) -> Iterator[onnx.NodeProto]:
    """The nodes with a 1x1 convolution of the squares, a band for each tower, in the place of LRN.

    A layer is normalised by the nodes 'NAME/towers', 'NAME/tower0/norm' and so on, and 'NAME/norm',
    or by the last alone. Constants are added to the graph.

    Raises:
        Failed: LRN has another exponent than that of the paper, of which roots are taken.
    """
    if network.lrn_beta != 0.75:
        raise Failed(f"LRN by band takes roots: beta has to be 0.75, not {network.lrn_beta}")
    maps: dict[str, str] = {}  # what is to be normalised, by the name of its layer
    for node in graph.node:
        layer, _, part = node.name.partition("/")
        if part == "towers" or part.endswith("norm"):
            maps.setdefault(layer, node.input[0])
            if part == "norm":
                yield from band(graph, network, layer, maps[layer])
        else:
            yield node


def band(graph: onnx.GraphProto, network: Network, layer: str, x: str) -> Iterator[onnx.NodeProto]:
    """The nodes that normalise the maps `x` of a layer."""
    channels = network.convolutions()[layer].width
    constants = {
        f"{layer}/band": lrn_band(network, channels)[..., None, None],
        f"{layer}/k": np.full(channels, network.lrn_k, np.float32),
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, name))

    def node(operator: str, name: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [f"{layer}/{name}"], name=f"{layer}/{name}")

    yield node("Mul", "squares", x, x)
    yield node("Conv", "sums", f"{layer}/squares", *constants)
    yield node("Sqrt", "root", f"{layer}/sums")
    yield node("Sqrt", "fourth_root", f"{layer}/root")
    yield node("Mul", "power", f"{layer}/root", f"{layer}/fourth_root")
    yield node("Div", "norm", x, f"{layer}/power")
