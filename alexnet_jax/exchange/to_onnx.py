"""The network at test as an ONNX graph: in float32, in half precision, in 8-bit integers.

    pixels ─ minus the mean image ─ conv1 ... fc8 = logits ─ softmax = probabilities

Standard operators only, and the names of `AlexNet`'s stages for what they compute: 'conv1',
'conv1/activation', 'conv1/norm', ... A layer whose towers do not communicate is a convolution of
two groups, and LRN looks at each tower by itself (paper section 3.3).
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.errors import UserError
from alexnet_jax.model.network import Conv, Network

OPSET = 17
IR_VERSION = 9
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
EPSILON = 1e-5  # of batch norm, see model/tower.py

Arrays = Mapping[str, Any]


def network_graph(
    network: Network, variables: Mapping[str, Any], mean_image: np.ndarray, *, half: bool = False
) -> onnx.ModelProto:
    """The model, checked.

    Input 'pixels', uint8 (N, C, C, 3), RGB, any N; outputs 'logits' and 'probabilities', float32
    (N, classes).

    Args:
        network: what the layers are.
        variables: `params`, and with batch norm `batch_stats`.
        mean_image: (C, C, 3), to be subtracted.
        half: weights and activations in float16, not float32. The input, the softmax and what
            squares its input stay float32: 256 squared is more than float16 holds.

    Raises:
        UserError: a layer is local.
    """
    graph = _Graph(network, half)
    for name, conv in network.convolutions().items():
        if conv.local:
            raise UserError(
                f"model.{name}.local: ONNX has no layer whose kernels are others at every place; "
                "--format=stablehlo keeps it"
            )
    params, averages = variables["params"], variables.get("batch_stats") or {}
    x = graph.add("Transpose", "pixels/maps", "pixels", perm=[0, 3, 1, 2])
    x = graph.add("Cast", "pixels/float", x, to=TensorProto.FLOAT)
    mean = graph.constant("mean_image", np.asarray(mean_image).transpose(2, 0, 1), wide=True)
    x = graph.narrow(graph.add("Sub", "input", x, mean))
    for name, conv in network.convolutions().items():
        arrays = {**params[name], **averages.get(name, {})}
        x = graph.convolution(x, name, conv, arrays)
    x = graph.add("Flatten", "maps", x)
    maps: tuple[int, ...] | None = (network.final_maps(), network.final_maps(), -1)
    for name, dense in network.hidden().items():
        x = graph.dense(x, name, params[name], maps)
        for word in dense.after.split():
            x = graph.activation(x, name) if word == "activation" else graph.dropout(x, name)
        maps = None
    x = graph.dense(x, "fc8", params["fc8"], maps)
    logits = graph.add("Cast", "logits", x, to=TensorProto.FLOAT)
    graph.add("Softmax", "probabilities", logits, axis=-1)
    size = network.input_size
    made = helper.make_graph(
        graph.nodes,
        "alexnet",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", network.classes])
            for name in ("logits", "probabilities")
        ],
        graph.constants,
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants. Maps are (N, channels, H, W), the channels of a tower side by side."""

    def __init__(self, network: Network, half: bool) -> None:
        self.network, self.half = network, half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, *, wide: bool = False) -> str:
        """An array under this name, which is returned; float32 if `wide`."""
        dtype = np.float16 if self.half and not wide else np.float32
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype, order="C"), name))
        return name

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, which has the node's name; the name is returned."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def widen(self, x: str) -> str:
        """Casts to float32."""
        return self.add("Cast", f"{x}/wide", x, to=TensorProto.FLOAT) if self.half else x

    def narrow(self, x: str) -> str:
        """Casts to the type of the activations."""
        return self.add("Cast", f"{x}/narrow", x, to=TensorProto.FLOAT16) if self.half else x

    def convolution(self, x: str, name: str, conv: Conv, arrays: Arrays) -> str:
        """A convolutional layer and all that follows it."""
        before, after = conv.padding
        x = self.add(
            "Conv",
            name,
            x,
            self.constant(f"{name}/kernel", np.transpose(arrays["kernel"], (3, 2, 0, 1))),
            self.constant(f"{name}/bias", arrays["bias"]),
            group=1 if self.network.sees_all(name) else self.network.towers,
            strides=[conv.stride] * 2,
            pads=[before, before, after, after],
        )
        for word in conv.after.split():
            match word:
                case "activation":
                    x = self.activation(x, name)
                case "norm" if self.network.norm == "lrn":
                    x = self.narrow(self.local_response_norm(self.widen(x), name, conv.width))
                case "norm" if self.network.norm == "batch_norm":
                    x = self.narrow(self.batch_norm(self.widen(x), name, arrays))
                case "within_map_norm":
                    x = self.narrow(self.within_map_norm(self.widen(x), name))
                case "pool" | "average_pool":
                    x = self.pool(x, name, conv, word)
                case "dropout":
                    x = self.dropout(x, name)
        return x

    def dense(self, x: str, name: str, arrays: Arrays, maps: tuple[int, ...] | None) -> str:
        """A fully connected layer.

        Args:
            x: (N, I).
            name: of the layer.
            arrays: its parameters.
            maps: (H, W, -1) if its inputs are flattened maps. The parameters' order of them is
                rows, columns, channels; the graph's is channels, rows, columns.
        """
        kernel, units = np.asarray(arrays["kernel"]), arrays["kernel"].shape[-1]
        if not self.network.sees_all(name):
            kernel = with_zeros(kernel, maps, self.network.towers)
        if maps is not None:
            kernel = kernel.reshape(*maps, units).transpose(2, 0, 1, 3).reshape(-1, units)
        kernel_name = self.constant(f"{name}/kernel", kernel)
        bias_name = self.constant(f"{name}/bias", arrays["bias"])
        return self.add("Gemm", name, x, kernel_name, bias_name)

    def activation(self, x: str, name: str) -> str:
        """The network's activation."""
        if self.network.activation == "linear":
            return x
        return self.add(ACTIVATIONS[self.network.activation], f"{name}/activation", x)

    def dropout(self, x: str, name: str) -> str:
        """The dropout of 2012 at test: every unit times the share that was kept (section 4.2)."""
        kept = self.constant(f"{name}/kept", 1 - self.network.dropout)
        return self.add("Mul", f"{name}/dropout", x, kept)

    def local_response_norm(self, x: str, name: str, channels: int) -> str:
        """LRN, by default inside a tower (section 3.3).

        The sums over neighbours are a convolution by a band of alphas with the bias k:
        onnxruntime's own LRN sums one channel after the other.
        """
        net = self.network
        groups = 1 if net.lrn_across_towers else net.towers
        inputs = np.arange(channels // groups)
        outputs = np.tile(inputs, groups)
        band = np.abs(outputs[:, None] - inputs) <= net.lrn_size // 2
        start = f"{name}/norm"
        sums = self.add(
            "Conv",
            f"{start}/sums",
            self.add("Mul", f"{start}/squares", x, x),
            self.constant(f"{start}/band", net.lrn_alpha * band[..., None, None], wide=True),
            self.constant(f"{start}/k", np.full(channels, net.lrn_k), wide=True),
            group=groups,
        )
        return self.divide(start, x, sums, net.lrn_beta)

    def batch_norm(self, x: str, name: str, arrays: Arrays) -> str:
        """Batch norm by the running averages."""
        wanted = ("scale", "shift", "mean", "variance")
        known = [self.constant(f"{name}/{which}", arrays[which], wide=True) for which in wanted]
        return self.add("BatchNormalization", f"{name}/norm", x, *known, epsilon=EPSILON)

    def within_map_norm(self, x: str, name: str) -> str:
        """The mean of the squares in a window, zeros counted, is the sum that
        `operators.within_map_norm` takes, over its size."""
        net, start = self.network, f"{name}/within_map_norm"
        share, one = (
            self.constant(f"{start}/{which}", value, wide=True)
            for which, value in {"share": net.within_map_scale, "one": 1.0}.items()
        )
        squares = self.add("Mul", f"{start}/squares", x, x)
        size = net.within_map_size
        window: dict[str, Any] = {"kernel_shape": [size] * 2, "pads": [size // 2] * 4}
        window["count_include_pad"] = 1
        means = self.add("AveragePool", f"{start}/means", squares, **window)
        shares = self.add("Mul", f"{start}/shares", means, share)
        return self.divide(start, x, self.add("Add", f"{start}/sums", shares, one), 0.75)

    def divide(self, name: str, x: str, sums: str, beta: float) -> str:
        """x / sums^beta. A power of 3/4 is the product of a root and its root, both of which have
        vector instructions."""
        if beta == 0.75:
            root = self.add("Sqrt", f"{name}/root", sums)
            power = self.add("Mul", f"{name}/power", root, self.add("Sqrt", f"{name}/root2", root))
        else:
            beta_name = self.constant(f"{name}/beta", beta, wide=True)
            power = self.add("Pow", f"{name}/power", sums, beta_name)
        return self.add("Div", name, x, power)

    def pool(self, x: str, name: str, conv: Conv, word: str) -> str:
        """Max pooling (section 3.4), or means over what a window sees."""
        before, after = conv.pool_padding
        return self.add(
            {"pool": "MaxPool", "average_pool": "AveragePool"}[word],
            f"{name}/{word}",
            x,
            kernel_shape=[self.network.pool_window] * 2,
            strides=[self.network.pool_stride] * 2,
            pads=[before, before, after, after],
        )


def with_zeros(kernel: np.ndarray, maps: tuple[int, ...] | None, towers: int) -> np.ndarray:
    """The kernel of a layer that sees its own tower, as one that sees all.

    Args:
        kernel: (I / towers, units).
        maps: (H, W, -1) if its inputs are flattened maps.
        towers: of the network.
    """
    height, width = (1, 1) if maps is None else maps[:2]
    apart = kernel.reshape(height * width, -1, towers, kernel.shape[-1] // towers)
    whole = np.zeros((*apart.shape[:1], towers, *apart.shape[1:]), kernel.dtype)
    for tower in range(towers):
        whole[:, tower, :, tower] = apart[:, :, tower]
    return whole.reshape(-1, kernel.shape[-1])


def quantised(model: onnx.ModelProto, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """The model of `network_graph` with convolutions and fully connected layers in 8-bit integers.

    Weights have a scale for each kernel, or unit. Activations have one for each tensor, so that
    their range over the calibration images just fits. The rest stays float32: LRN's sums, too.

    Args:
        model: of `network_graph`, in float32.
        batches: calibration images, each uint8 (N, C, C, 3).
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {"pixels": batch}

    with tempfile.TemporaryDirectory() as directory:
        shaped, path = Path(directory) / "shaped.onnx", Path(directory) / "int8.onnx"
        quant_pre_process(model, shaped, skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_static(
            shaped,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            # ReLU is among them: what it cuts off takes no share of a range.
            op_types_to_quantize=["Conv", "Gemm", "Relu"],
            nodes_to_exclude=[n.name for n in model.graph.node if n.name.endswith("/norm/sums")],
            per_channel=True,
        )
        found = onnx.load(path)
    onnx.checker.check_model(found, full_check=True)
    return found
