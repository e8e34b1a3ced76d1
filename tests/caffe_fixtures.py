"""Caffe's networks as Caffe keeps them, written byte by byte, and what PyTorch says they compute.

Protocol buffers are written here by hand, by the numbers in caffe.proto, so that nothing is shared
with the reader: it must find what Caffe would have written, not what it describes itself.
"""

import dataclasses
import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# caffe.proto: of each message the numbers of its fields.
FIELDS = {
    "convolution": {
        "num_output": 1, "bias_term": 2, "pad": 3, "kernel_size": 4, "group": 5, "stride": 6,
        "weight_filler": 7, "pad_h": 9, "pad_w": 10, "kernel_h": 11, "kernel_w": 12,
        "stride_h": 13, "stride_w": 14, "engine": 15, "axis": 16, "dilation": 18,
    },
    "data": {"scale": 2, "mean_file": 3, "batch_size": 4, "crop_size": 5},
    "dropout": {"dropout_ratio": 1, "scale_train": 2},
    "flatten": {"axis": 1, "end_axis": 2},
    "inner_product": {"num_output": 1, "bias_term": 2, "axis": 5, "transpose": 6},
    "input": {"shape": 1},
    "lrn": {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5},
    "memory_data": {"batch_size": 1, "channels": 2, "height": 3, "width": 4},
    "pooling": {
        "pool": 1, "kernel_size": 2, "stride": 3, "pad": 4, "kernel_h": 5, "kernel_w": 6,
        "global_pooling": 12, "round_mode": 13,
    },
    "python": {"module": 1, "layer": 2},
    "relu": {"negative_slope": 1, "engine": 2},
    "softmax": {"axis": 2},
    "transform": {"scale": 1, "mirror": 2, "crop_size": 3, "mean_file": 4, "mean_value": 5},
}  # fmt: skip
NEW = {  # fields of LayerParameter
    "transform": 100, "convolution": 106, "data": 107, "dropout": 108, "inner_product": 117,
    "lrn": 118, "memory_data": 119, "pooling": 121, "relu": 123, "softmax": 125, "python": 130,
    "flatten": 135, "input": 143,
}  # fmt: skip
OLD = {  # of V1LayerParameter
    "convolution": 10, "data": 11, "dropout": 12, "inner_product": 17, "lrn": 18, "pooling": 19,
    "memory_data": 22, "relu": 30, "transform": 36, "softmax": 39,
}  # fmt: skip
OLD_TYPES = {
    "Accuracy": 1, "Concat": 3, "Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14,
    "LRN": 15, "Pooling": 17, "ReLU": 18, "Softmax": 20, "SoftmaxWithLoss": 21, "Split": 22,
    "TanH": 23, "MemoryData": 29,
}  # fmt: skip


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; negative ones in 64 bits."""
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: Any) -> bytes:
    """A field of a message: an integer, a float, text, bytes (a message), or several of these."""
    if isinstance(value, list | tuple):
        return b"".join(field(number, one) for one in value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def blob(array: np.ndarray, old: bool = False) -> bytes:
    """A BlobProto; the old form has always four dimensions. float64 stays so."""
    if old:
        shape = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(field(number + 1, size) for number, size in enumerate(shape))
    else:
        head = field(7, field(1, b"".join(map(varint, array.shape))))  # packed
    if array.dtype == np.float64:
        return head + field(8, array.astype("<f8").tobytes())
    return head + field(5, array.astype("<f4").tobytes())


@dataclasses.dataclass
class Layer:
    """A layer; `says` has fields of messages by 'message.field'."""

    kind: str
    name: str
    bottom: Sequence[str]
    top: Sequence[str]
    arrays: Sequence[np.ndarray] = ()
    says: dict[str, Any] = dataclasses.field(default_factory=dict)

    def messages(self) -> dict[str, dict[str, Any]]:
        """What it says, message by message."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in self.says.items():
            message, name = key.split(".")
            found.setdefault(message, {})[name] = value
        return found

    def written(self, old: bool) -> bytes:
        """As LayerParameter, or as V1LayerParameter."""
        blobs = [blob(array, old) for array in self.arrays]
        if old:
            out = field(2, self.bottom) + field(3, self.top) + field(4, self.name)
            out += field(5, OLD_TYPES[self.kind]) + field(6, blobs)
        else:
            out = field(1, self.name) + field(2, self.kind) + field(3, self.bottom)
            out += field(4, self.top) + field(7, blobs)
        for message, values in self.messages().items():
            numbers = FIELDS[message]
            inner = b"".join(field(numbers.get(n, 99), value) for n, value in values.items())
            out += field((OLD if old else NEW)[message], inner)
        return out

    def text(self) -> str:
        """As a .prototxt has it."""
        lines = [f'name: "{self.name}" type: "{self.kind}"']
        lines += [f'bottom: "{name}"' for name in self.bottom]
        lines += [f'top: "{name}"' for name in self.top]
        for message, values in self.messages().items():
            inner = " ".join(f"{name}: {value}" for name, value in values.items())
            lines.append(f"{message}_param {{ {inner} }}")
        return f"layer {{ {' '.join(lines)} }}\n"


def network(layers: Iterable[Layer], old: bool = False, head: bytes = b"") -> bytes:
    """A NetParameter, with its layers in the old form or the new."""
    written = [layer.written(old) for layer in layers]
    return field(1, "AlexNet") + head + field(2 if old else 100, written)


def save(path: Path, layers: Iterable[Layer], old: bool = False, head: bytes = b"") -> Path:
    """Writes a .caffemodel."""
    path.write_bytes(network(layers, old, head))
    return path


def kernels(shape: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Kernels that keep the size of what they see, and biases."""
    first = 1 / 60 if shape[1:2] == (3,) else 1.0
    std = first * math.sqrt(2 / math.prod(shape[1:]))
    kernel = np.float32(std) * rng.standard_normal(shape, np.float32)
    return [kernel, np.float32(rng.normal(0, 0.1, shape[0]))]


SMALL = (8, 12, 16, 16, 8, 24, 16, 10)


def alexnet(
    widths: Sequence[int] = SMALL,
    side: int = 48,
    first: tuple[int, int] = (7, 2),
    order: str = "LRN Pooling",
    alpha: float = 0.5,
    seed: int = 0,
) -> list[Layer]:
    """BVLC's AlexNet (models/bvlc_alexnet/train_val.prototxt) as training saves it.

    Args:
        widths: of the eight layers.
        side: of the crops, pixels.
        first: kernel and stride of conv1.
        order: of what follows the ReLU of conv1 and conv2; CaffeNet has the other one.
        alpha: of the LRN; here strong, so that it matters.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    data = {
        "transform.mirror": 1,
        "transform.crop_size": side,
        "transform.mean_file": "data/ilsvrc12/imagenet_mean.binaryproto",
        "data.batch_size": 256,
    }
    layers = [Layer("Data", "data", (), ("data", "label"), says=data)]
    blob_name, inputs = "data", 3

    def add(kind: str, name: str, arrays: Sequence[np.ndarray] = (), **says: Any) -> None:
        nonlocal blob_name
        in_place = kind in ("ReLU", "Dropout")
        top = blob_name if in_place else name
        layers.append(
            Layer(kind, name, (blob_name,), (top,), arrays,
                  {key.replace("__", "."): value for key, value in says.items()})
        )  # fmt: skip
        blob_name = top

    geometry = ((*first, 0, 1), (5, 1, 2, 2), (3, 1, 1, 1), (3, 1, 1, 2), (3, 1, 1, 2))
    for number, (width, (size, stride, pad, groups)) in enumerate(zip(widths, geometry), 1):
        arrays = kernels((width, inputs // groups, size, size), rng)
        says = {"num_output": width, "kernel_size": size}
        says |= {"stride": stride} if stride > 1 else {}
        says |= {"pad": pad} if pad else {}
        says |= {"group": groups} if groups > 1 else {}
        add("Convolution", f"conv{number}", arrays,
            **{f"convolution__{key}": value for key, value in says.items()})  # fmt: skip
        add("ReLU", f"relu{number}")
        for kind in order.split() if number < 3 else ["Pooling"] * (number == 5):
            if kind == "LRN":
                add("LRN", f"norm{number}", lrn__local_size=5, lrn__alpha=alpha, lrn__beta=0.75)
            else:
                add("Pooling", f"pool{number}",
                    pooling__pool=0, pooling__kernel_size=3, pooling__stride=2)  # fmt: skip
        inputs = width
    inputs *= sides(side, first)[-1] ** 2
    for number, width in enumerate(widths[5:], 6):
        arrays = kernels((width, inputs), rng)
        add("InnerProduct", f"fc{number}", arrays, inner_product__num_output=width)
        if number < 8:
            add("ReLU", f"relu{number}")
            add("Dropout", f"drop{number}", dropout__dropout_ratio=0.5)
        inputs = width
    layers.append(Layer("SoftmaxWithLoss", "loss", (blob_name, "label"), ("loss",)))
    return layers


def sides(side: int, first: tuple[int, int]) -> list[int]:
    """Of the maps after the three pools, which round up."""
    side = (side - first[0]) // first[1] + 1
    found = []
    for _ in range(3):
        side = -((3 - side) // 2) + 1
        found.append(side)
    return found


def run_torch(layers: Sequence[Layer], inputs: np.ndarray) -> np.ndarray:
    """The logits by PyTorch in float64; needs torch."""
    import torch
    import torch.nn.functional as F

    blobs: dict[str, Any] = {"data": torch.tensor(inputs, dtype=torch.float64)}
    x = blobs["data"]
    for layer in layers:
        arrays = [torch.tensor(array, dtype=torch.float64) for array in layer.arrays]
        says = {key.split(".")[1]: value for key, value in layer.says.items()}
        if layer.kind in ("Data", "SoftmaxWithLoss", "Accuracy", "Split", "Input"):
            blobs |= dict.fromkeys(layer.top, blobs.get("".join(layer.bottom[:1]), x))
            continue
        x = blobs[layer.bottom[0]]
        match layer.kind:
            case "Convolution":
                x = F.conv2d(x, *arrays, says.get("stride", 1), says.get("pad", 0),
                             groups=says.get("group", 1))  # fmt: skip
            case "InnerProduct":
                x = F.linear(x.flatten(1), *arrays)
            case "LRN":
                x = F.local_response_norm(
                    x, says["local_size"], says["alpha"], says["beta"], says.get("k", 1.0)
                )
            case "Pooling":
                x = F.max_pool2d(x, 3, 2, says.get("pad", 0), ceil_mode=True)
            case "ReLU":
                x = x.relu()
            case "TanH":
                x = x.tanh()
            case "Dropout" | "Softmax":
                pass
            case kind:
                raise ValueError(kind)
        blobs[layer.top[0]] = x
    return x.numpy()
