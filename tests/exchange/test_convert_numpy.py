"""`bvlc_alexnet.npy` and its kind, read without NumPy's unpickling, against PyTorch."""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import caffe_fixtures as caffe
import convert_fixtures as other
import network_fixtures as fixtures
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.exchange import from_numpy
from alexnet_jax.exchange.converting import convert
from alexnet_jax.model import make_mesh

WIDTHS = (8, 12, 16, 12, 8, 24, 16, 10)
Arrays = dict[str, Any]


def bvlc_arrays() -> Arrays:
    """[kernel, bias] of each layer: kernels HWIO, fc6 of rows, columns and channels."""
    found = {}
    for layer in caffe.alexnet(WIDTHS, 227, (11, 4)):
        if layer.kind == "Convolution":
            kernel, bias = layer.arrays
            if layer.name == "conv1":
                kernel = 100 * kernel  # to responses for which Caffe's weak LRN matters
            found[layer.name] = [kernel.transpose(2, 3, 1, 0).copy(), bias]
        elif layer.kind == "InnerProduct":
            kernel, bias = layer.arrays
            found[layer.name] = [kernel.T.copy(), bias]
    return found


def expected_of(arrays: Arrays, inputs: np.ndarray) -> np.ndarray:
    """The logits by PyTorch in float64, from the network as guerzh's alexnet.py has it."""
    import torch
    import torch.nn.functional as F

    x = torch.tensor(inputs, dtype=torch.float64)
    for name, stride, pad in (
        ("conv1", 4, 0), ("conv2", 1, 2), ("conv3", 1, 1), ("conv4", 1, 1), ("conv5", 1, 1),
    ):  # fmt: skip
        kernel, bias = (torch.tensor(array, dtype=torch.float64) for array in arrays[name])
        groups = x.shape[1] // kernel.shape[2]
        x = F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, pad, groups=groups).relu()
        if name in ("conv1", "conv2"):
            x = F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)
        if name in ("conv1", "conv2", "conv5"):
            x = F.max_pool2d(x, 3, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        kernel, bias = (torch.tensor(array, dtype=torch.float64) for array in arrays[name])
        x = x @ kernel + bias
        x = x.relu() if name != "fc8" else x
    return x.numpy()


class Python2(pickle._Pickler):
    """Pickles as Python 2 did: text and bytes are one."""

    def save_bytes(self, value: Any) -> None:
        """As BINSTRING."""
        data = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {bytes: save_bytes, str: save_bytes}


def python2(value: Any) -> bytes:
    """A .npy file as NumPy 1.11 wrote it in Python 2.7, as BVLC's was written."""
    file = io.BytesIO()
    Python2(file, 2).dump(np.array(value, object))
    content = file.getvalue().replace(b"numpy._core.", b"numpy.core.")
    return headed(content)


def headed(content: bytes) -> bytes:
    """With the header of a .npy file."""
    header = b"{'descr': 'O', 'fortran_order': False, 'shape': (), }".ljust(69) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def saved(value: Any) -> bytes:
    """As `np.save` writes it today."""
    file = io.BytesIO()
    np.save(file, np.array(value, object), allow_pickle=True)
    return file.getvalue()


WAYS: dict[str, Callable[[Arrays], bytes]] = {
    "Python 2": python2,
    "Python 3 for Python 2": lambda a: headed(pickle.dumps(np.array(a, object), 2)),
    "today": saved,
    "named": lambda a: saved({k: {"weights": w, "biases": b} for k, (w, b) in a.items()}),
    "columns first": lambda a: saved({k: (np.asfortranarray(w), b) for k, (w, b) in a.items()}),
    "big-endian float64": lambda a: saved(
        {k: [w.astype(">f8"), b.astype(">f8")] for k, (w, b) in a.items()}
    ),
    "a plain dict": lambda a: headed(pickle.dumps(a, 3)),
}


def test_the_network(reference: ModuleType, tmp_path: Path) -> None:
    """As BVLC's AlexNet computes, at 227 pixels; it is said that this was assumed."""
    arrays = bvlc_arrays()
    (tmp_path / "bvlc_alexnet.npy").write_bytes(python2(arrays))
    made = convert(tmp_path / "bvlc_alexnet.npy", tmp_path / "w")
    pictures = other.pictures(2)
    expected = expected_of(arrays, other.seen_by_caffe(pictures, 227))
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
    loaded = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1))
    assert fixtures.difference(loaded.logits(pictures), expected) < 1e-4
    assert made["format"] == "NumPy dict, read as BVLC's AlexNet of 227 pixels"
    network = settings.network(settings.read(tmp_path / "w/config.json"))
    assert network.towers == 2 and network.lrn_across_towers and network.dropout == 0.5
    assert network.conv1.after == "activation norm pool"
    assert network.fc7.after == "activation dropout"


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_keep_a_dict(way: str, tmp_path: Path) -> None:
    """Each gives the same arrays."""
    arrays = bvlc_arrays()
    path = tmp_path / "a.npy"
    path.write_bytes(WAYS[way](arrays))
    found = {layer.name: layer for layer in from_numpy.read(path).layers}
    kernel, bias = arrays["conv2"]
    np.testing.assert_array_equal(found["conv2"].kernel, kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(found["conv2"].bias, bias)
    assert found["conv2"].groups == 2 and found["conv3"].groups == 1


def test_what_is_no_such_dict(tmp_path: Path) -> None:
    """Features, a list, other layers, other shapes, half a file: one line each."""
    path = tmp_path / "a.npy"
    arrays = bvlc_arrays()
    ones = np.ones(3, np.float32)
    plain, spoilt = io.BytesIO(), saved(arrays)
    np.save(plain, np.ones((7, 9)))
    for content, message in (
        (plain.getvalue(), "holds an array of shape (7, 9), expected a dict of layers"),
        (saved([1, 2]), "holds no dict of layers"),
        (saved({k: v for k, v in arrays.items() if k != "fc8"}), "has no layer fc8, as BVLC's"),
        (
            saved({"conv1_1": arrays["conv1"]}),
            "has no layer conv1, as BVLC's AlexNet has; it has c",
        ),
        (saved(arrays | {"fc9": arrays["fc8"]}), "has a layer fc9, which BVLC's AlexNet has not"),
        (saved({3: arrays["conv1"]}), "has a name of type int, expected text"),
        (headed(b"\x80\x02Nr\xff\xff\xff\x7f."), "holds no dict"),  # a place of 16 GB for None
        (saved(arrays | {"fc8": 3}), "fc8 is no pair of a kernel and a bias"),
        (saved(arrays | {"fc8": [3, 4]}), "the kernel of fc8 is no array of numbers"),
        (saved(arrays | {"fc8": [ones, np.array([1, 2])]}), "the bias of fc8 is damaged: it is of"),
        (saved(arrays | {"fc8": [ones, ones]}), "fc8 has shape (3,), expected (I, O)"),
        (saved(arrays | {"fc6": arrays["fc7"]}), "fc6 has shape (24, 16), expected 8 square maps"),
        (saved(arrays | {"conv2": arrays["fc7"]}), "conv2 has shape (24, 16), expected (K, K, 8"),
        (saved(arrays | {"fc7": [arrays["fc7"][0] * np.nan, ones]}), "the kernel of fc7 holds 384"),
        (saved(arrays | {"fc8": [arrays["fc8"][0], ones]}), "the bias of fc8 has shape (3,)"),
        (spoilt[:-5000], "cannot be read as .npy"),
        (spoilt[:60], "cannot be read as .npy"),
        (b"", "cannot be read as .npy"),
        (b"<html>404</html>", "cannot be read as .npy"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as info:
            convert(path, tmp_path / "w")
        assert message in str(info.value) and "\n" not in str(info.value), str(info.value)
        assert str(path) in str(info.value) and not (tmp_path / "w").exists()


def test_bytes_that_are_wrong(tmp_path: Path) -> None:
    """Whatever the pickle says, the file is refused in words or read."""
    whole = saved(bvlc_arrays())
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    path = tmp_path / "a.npy"
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(80, 500 if rng.random() < 0.7 else len(content), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            from_numpy.read(path)
            outcomes[True] += 1
        except UserError as error:
            assert "\n" not in str(error)
            outcomes[False] += 1
    assert min(outcomes.values()) > 20, outcomes
