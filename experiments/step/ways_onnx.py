"""The network as an ONNX graph, run by onnxruntime on a CPU."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.model import Network
from experiments.step import contenders
from experiments.step.contenders import Arrays, Contender, Failed, Params, Task, Way

OPSET = 17


def start(task: Task) -> str:
    """Nothing to set: threads belong to a session."""
    return f"onnxruntime on cpu with {task.threads} threads"


def ways(task: Task) -> list[Way]:
    """LRN by ONNX's own operator, or as a banded 1x1 convolution."""
    if task.kind != "inference":
        return []
    group = f"{task.kind}, batch {task.batch}"
    return [
        Way(f"onnx_{lrn}", group, f"onnxruntime, LRN by {lrn}", task.kind)
        for lrn in ("window", "band")
    ]


def make(key: str, task: Task) -> Contender:
    """See `ways`."""
    if task.platform != "cpu" or task.dtype != "float32":
        raise Failed("onnxruntime is compared in float32 on a CPU")
    return Session(task, key.removeprefix("onnx_"))


class Session(Contender):
    """The logits of one batch."""

    def __init__(self, task: Task, lrn: str) -> None:
        network = task.network
        self.batch, self.flops = task.batch, contenders.flops(network, task.kind)
        images = contenders.pixels(network, task.batch).transpose(0, 3, 1, 2)
        self.images = np.ascontiguousarray(images)
        model = graph(network, contenders.parameters(network), task.batch, lrn)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        started = time.perf_counter()
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.compile_seconds = time.perf_counter() - started

    def step(self) -> None:
        """See `Contender`."""
        (self.logits,) = self.session.run(None, {"images": self.images})

    def wait(self) -> None:
        """`run` has waited."""

    def outcome(self, given: Mapping[str, np.ndarray]) -> Arrays:
        """The logits."""
        self.step()
        return {"logits": self.logits}


def graph(network: Network, params: Params, batch: int, lrn: str) -> onnx.ModelProto:
    """The network at test, from 'images' float32 (N, 3, S, S) to 'logits' (N, classes).

    Args:
        network: with relu, lrn and max pooling only.
        params: kernels HWIO, units IO; the first of these over maps in HWC order.
        batch: N.
        lrn: 'window' or 'band'.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    last = "images"

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def apply(operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        name = to or f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    for conv in contenders.convolutions(network):
        layer, name = conv.layer, conv.name
        kernel = constant(f"{name}_kernel", params[name]["kernel"].transpose(3, 2, 0, 1))
        bias = constant(f"{name}_bias", params[name]["bias"])
        before, after = layer.padding
        last = apply(
            "Conv",
            last,
            kernel,
            bias,
            group=conv.groups,
            strides=[layer.stride] * 2,
            pads=[before, before, after, after],
        )
        for stage, _ in conv.stages:
            match stage:
                case "activation" if network.activation == "relu":
                    last = apply("Relu", last)
                case "pool" if layer.pool_padding == (0, 0):
                    window, stride = [network.pool_window] * 2, [network.pool_stride] * 2
                    last = apply("MaxPool", last, kernel_shape=window, strides=stride)
                case "norm" if network.norm == "lrn" and lrn == "window":
                    towers = [f"{name}_tower{tower}" for tower in range(network.towers)]
                    nodes.append(
                        helper.make_node("Split", [last], towers, axis=1)
                        if len(towers) > 1
                        else helper.make_node("Identity", [last], towers)
                    )
                    normal = [
                        apply(
                            "LRN",
                            tower,
                            size=network.lrn_size,
                            alpha=network.lrn_alpha * network.lrn_size,
                            beta=network.lrn_beta,
                            bias=network.lrn_k,
                        )
                        for tower in towers
                    ]
                    last = apply("Concat", *normal, axis=1)
                case "norm" if network.norm == "lrn" and network.lrn_beta == 0.75:
                    channel = np.arange(layer.width)
                    tower = channel // (layer.width // network.towers)
                    near = np.abs(channel[:, None] - channel) <= network.lrn_size // 2
                    band = network.lrn_alpha * (near & (tower[:, None] == tower))
                    weights = constant(f"{name}_band", band.astype(np.float32)[..., None, None])
                    k = constant(f"{name}_k", np.full(layer.width, network.lrn_k, np.float32))
                    root = apply("Sqrt", apply("Conv", apply("Mul", last, last), weights, k))
                    power = apply("Mul", root, apply("Sqrt", root))
                    last = apply("Div", last, power)
                case _:
                    raise ValueError(f"the ONNX network knows no such {stage}")
    last = apply("Flatten", last)
    kept = constant("kept", np.float32(1 - network.dropout))
    for number, name in enumerate(contenders.denses(network)):
        units = params[name]["kernel"]
        if number == 0:
            units = contenders.rows_in_chw(units, network.final_maps())
        kernel = constant(f"{name}_kernel", units)
        bias = constant(f"{name}_bias", params[name]["bias"])
        dense = network.hidden().get(name)
        last = apply("Gemm", last, kernel, bias, to=None if dense else "logits")
        for stage in dense.after.split() if dense else ():
            last = apply("Relu", last) if stage == "activation" else apply("Mul", last, kept)
    shape = [batch, 3, network.input_size, network.input_size]
    made = helper.make_graph(
        nodes,
        "alexnet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, network.classes])],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
