"""The weights of BVLC's AlexNet as a dict of NumPy arrays: `bvlc_alexnet.npy`.

caffe-tensorflow made it, and many networks in TensorFlow start from it: [kernel, bias] by the names
of Caffe's layers. It does not say what else the layers do; they are BVLC's (models/bvlc_alexnet of
BVLC/caffe).

NumPy keeps a dict as a pickle, which may ask for anything to be run while it is read. Here it is
read without NumPy's help: what such a file asks for becomes records that do nothing, anything else
is refused, and arrays are made of the bytes in the records.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.exchange.weights import Layer, Weights, numbers

# What the file does not say: stride, padding and what comes after.
CONVOLUTIONS = {
    "conv1": (4, 0, "activation norm pool"),
    "conv2": (1, 2, "activation norm pool"),
    "conv3": (1, 1, "activation"),
    "conv4": (1, 1, "activation"),
    "conv5": (1, 1, "activation pool"),
}
DENSE = {"fc6": "activation dropout", "fc7": "activation dropout", "fc8": ""}
INPUT_SIZE = 227
SHARED = {
    "norm": "lrn",
    "lrn_across_towers": True,
    "lrn_size": 5,
    "lrn_k": 1.0,
    "lrn_alpha": 2e-5,  # of each squared response: 1e-4 over the window
    "lrn_beta": 0.75,
    "dropout": 0.5,
}


def read(path: Path) -> Weights:
    """The weights in such a file.

    Raises:
        UserError: it is something else, or asks for more than arrays.
    """
    arrays = {name: pair_of(name, value) for name, value in unpickled(path).items()}
    names = [*CONVOLUTIONS, *DENSE]
    unexpected = sorted(arrays.keys() - set(names))
    for name in names:
        if name not in arrays:
            others = ", ".join(unexpected[:3]) or "no others"
            raise UserError(f"has no layer {name}, as BVLC's AlexNet has; it has {others}")
    if unexpected:
        raise UserError(f"has a layer {unexpected[0]}, which BVLC's AlexNet has not")
    layers = []
    inputs = 3
    for name, (stride, pad, after) in CONVOLUTIONS.items():
        kernel, bias = arrays[name]
        if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or inputs % kernel.shape[2]:
            raise UserError(f"{name} has shape {kernel.shape}, expected (K, K, {inputs}, O)")
        groups = inputs // kernel.shape[2]
        if groups > 2 or (groups == 2 and name == "conv1"):
            raise UserError(f"{name} has shape {kernel.shape}: more than two groups")
        kernel = kernel.transpose(3, 2, 0, 1)  # HWIO to OIHW
        layers.append(Layer(name, kernel, bias, stride, (pad, pad), groups, after.split()))
        inputs = len(kernel)
    for name, after in DENSE.items():
        kernel, bias = arrays[name]
        if kernel.ndim != 2:
            raise UserError(f"{name} has shape {kernel.shape}, expected (I, O)")
        if name == "fc6":  # its inputs are in TensorFlow's order: rows, columns, channels
            side = round((len(kernel) / inputs) ** 0.5)
            if side * side * inputs != len(kernel):
                raise UserError(f"fc6 has shape {kernel.shape}, expected {inputs} square maps")
            maps = kernel.reshape(side, side, inputs, -1).transpose(2, 0, 1, 3)
            kernel = maps.reshape(kernel.shape)
        layers.append(Layer(name, kernel.T, bias, after=after.split()))
    kind = f"NumPy dict, read as BVLC's AlexNet of {INPUT_SIZE} pixels"
    return Weights(kind, layers, INPUT_SIZE, "caffe", SHARED)


def pair_of(name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and the bias of a layer, which may have names.

    Raises:
        UserError: they are something else.
    """
    if isinstance(value, _Array) and value.holds_objects():
        value = value.data()
    if isinstance(value, Mapping):
        value = [value.get(key, value.get(key.encode())) for key in ("weights", "biases")]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{name} is no pair of a kernel and a bias")
    kernel, bias = (
        numbers(f"the {which} of {name}", array_of(f"the {which} of {name}", array))
        for which, array in zip(("kernel", "bias"), value)
    )
    return kernel, bias


def array_of(name: str, found: Any) -> np.ndarray:
    """The array that a record stands for.

    Raises:
        UserError: it is none of floating-point numbers, or not complete.
    """
    if not isinstance(found, _Array) or found.holds_objects():
        raise UserError(f"{name} is no array of numbers")
    try:
        _, shape, kind, by_columns, _ = found.state
        array = np.frombuffer(found.data(), np.dtype(kind.name()))
        return array.reshape(shape, order="F" if by_columns else "C")
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{name} is damaged: {error}") from error


def unpickled(path: Path) -> Mapping[str, Any]:
    """The dict of a file, with `_Array` for arrays.

    Raises:
        UserError: the file holds no dict, or asks for something else.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of headers that Python 2 has written
        try:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            found = _Unpickler(file, encoding="bytes").load() if kind.hasobject else None
        except UserError:
            raise
        except Exception as error:  # of the many of a damaged pickle
            raise UserError("cannot be read as .npy: damaged, or something else") from error
    if not kind.hasobject:
        raise UserError(f"holds an array of shape {shape}, expected a dict of layers")
    if isinstance(found, _Array) and found.holds_objects():
        (found,) = found.data()[:1] or [None]
    if not isinstance(found, Mapping):
        raise UserError("holds no dict of layers")
    return {_text(name): value for name, value in found.items()}


class _Array:
    """An array as a pickle describes it."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        """Takes what an array is made of before its state is set: nothing that matters."""

    def __setstate__(self, state: Any) -> None:
        """Takes (version, shape, type, whether columns come first, numbers)."""
        self.state = state

    def holds_objects(self) -> bool:
        """Whether it is a list of whatever."""
        return isinstance(self.state, tuple) and isinstance(self.state[-1], list)

    def data(self) -> Any:
        """The bytes, or the list."""
        data = self.state[-1]
        return data.data if isinstance(data, _Bytes) else data


class _Type:
    """The type of an array's numbers."""

    order = ""

    def __init__(self, name: Any, *_: Any) -> None:
        """Takes a name such as 'f4'."""
        self._name = name

    def __setstate__(self, state: Any) -> None:
        """Takes (version, order of bytes, and what simple types lack)."""
        self.order = _text(state[1])

    def name(self) -> str:
        """One that NumPy knows, of floating-point numbers.

        Raises:
            ValueError: it is another.
        """
        name = f"{self.order}{_text(self._name)}"
        if name.lstrip("<>=|") not in ("f2", "f4", "f8"):
            raise ValueError(f"it is of type {name}, expected floating-point numbers")
        return name


class _Bytes:
    """Bytes that a Python 3 has written for a Python 2: as text."""

    def __init__(self, text: str = "", encoding: str = "latin1") -> None:
        """Takes what `_codecs.encode` would."""
        self.data = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        """Bytes have no state."""
        raise ValueError("bytes with a state")


class _Unpickler(pickle._Unpickler):
    """Knows arrays alone, and of these only the description.

    Python's own, not the faster one in C, of which ten bytes can ask for all memory (LONG_BINPUT).
    """

    known: Mapping[tuple[str, str], type] = {
        ("multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _Bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The record for what the file asks for.

        Raises:
            UserError: it is none of those.
        """
        within = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if (within, name) not in self.known:
            asked = f"{module}.{name}"
            raise UserError(
                f"is no plain dict of arrays: it asks for {asked!a}. Nothing in it was run"
            )
        return self.known[within, name]


def _text(value: Any) -> str:
    """Text, also where Python 2 wrote bytes."""
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not text.isprintable():
        raise UserError(f"has a name of type {type(value).__name__}, expected text")
    return text
