"""Files that would run something where they are read carelessly: nothing is run, in any format.

Each trap makes a directory. It is sprung once by the careless reading, or the test would hold
nothing.
"""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import caffe_fixtures as caffe
import convert_fixtures as other
import numpy as np
import onnx
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.exchange import from_caffe
from alexnet_jax.exchange.converting import READERS, convert


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def pickled(trap: Trap, protocol: int) -> bytes:
    """A plain pickle; protocol 0 is text."""
    return pickle.dumps({"features.0.weight": trap}, protocol)


def by_numpy(value: Any) -> bytes:
    """As `np.save` writes it."""
    file = io.BytesIO()
    np.save(file, np.array(value, object), allow_pickle=True)
    return file.getvalue()


def by_torch(value: Any, zipped: bool) -> bytes:
    """As `torch.save` writes it."""
    import torch

    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def careless_torch(content: bytes) -> None:
    """As scripts before 2024 did."""
    import torch

    torch.load(io.BytesIO(content), weights_only=False)


Contents = dict[str, tuple[Callable[[Trap], bytes], Callable[[bytes], Any]]]
PICKLES: Contents = {
    f"a pickle of protocol {n}": (lambda trap, n=n: pickled(trap, n), pickle.loads)
    for n in (0, 2, 4)
}
ARRAYS: Contents = {
    name: (make, lambda content: np.load(io.BytesIO(content), allow_pickle=True))
    for name, make in {
        "in the dict": lambda trap: by_numpy({"conv1": [trap, trap]}),
        "for the dict": lambda trap: by_numpy(trap),
        "as a name": lambda trap: by_numpy({trap: 1}),
        "in an array of objects": lambda trap: by_numpy({"conv1": np.array([trap, None], object)}),
    }.items()
}
TENSORS: Contents = {
    f"{name}, {'zip' if zipped else 'legacy'}": (
        lambda trap, wrap=wrap, zipped=zipped: by_torch(wrap(trap), zipped),
        careless_torch,
    )
    for name, wrap in {
        "a weight": lambda trap: {"features.0.weight": trap},
        "a state dict": lambda trap: {"state_dict": trap},
        "beside it": lambda trap: {"state_dict": {}, "args": trap},
    }.items()
    for zipped in (True, False)
}
TRAPS: dict[str, Contents] = {
    ".npy": PICKLES | ARRAYS,
    ".onnx": PICKLES,
    ".caffemodel": PICKLES,
    ".safetensors": PICKLES,
    **dict.fromkeys((".pth", ".pt", ".pth.tar", ".ckpt", ".bin"), PICKLES | TENSORS),
}
CASES = [(suffix, name) for suffix in READERS for name in TRAPS[suffix]]


@pytest.mark.parametrize(("suffix", "name"), CASES)
def test_nothing_is_run(
    suffix: str, name: str, reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no format, even where the environment asks torch for it: one clear line instead."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    make, careless = TRAPS[suffix][name]
    path, sprung = tmp_path / f"weights{suffix}", tmp_path / "sprung"
    content = make(Trap(sprung))
    path.write_bytes(content)
    with pytest.raises(UserError) as info:
        convert(path, tmp_path / "w")
    text = str(info.value)
    assert str(path) in text and "\n" not in text, text
    assert name in PICKLES or "Nothing in it was run" in text
    assert not sprung.exists() and not (tmp_path / "w").exists()
    careless(content)
    assert sprung.is_dir(), "the trap does not work, so the test holds nothing"


def test_files_beside_the_weights(tmp_path: Path) -> None:
    """A mean image and class names that are pickles."""
    graph = other.bvlc_like().save(tmp_path / "a.onnx")
    trap, sprung = Trap(tmp_path / "sprung"), tmp_path / "sprung"
    for name, content in {
        "mean.npy": by_numpy(trap),
        "mean.binaryproto": pickled(trap, 2),
        "names.txt": pickled(trap, 0),
    }.items():
        (tmp_path / name).write_bytes(content)
        flag = "classes" if name == "names.txt" else "mean_file"
        with pytest.raises(UserError) as info:
            convert(graph, tmp_path / "w", **{flag: tmp_path / name})
        text = str(info.value)
        assert f"--{flag}={tmp_path / name}" in text and "\n" not in text
        assert not sprung.exists() and not (tmp_path / "w").exists()


def test_a_graph_that_points_elsewhere(tmp_path: Path) -> None:
    """Weights in another file are not read, whether it lies beside the graph or outside."""
    (tmp_path / "models").mkdir()
    path = other.bvlc_like().save(tmp_path / "models/a.onnx")
    for elsewhere in ("beside.bin", "../secret.bin", str(tmp_path / "secret.bin")):
        model = onnx.load(path)
        kernel = model.graph.initializer[0]
        path.parent.joinpath(elsewhere).write_bytes(kernel.raw_data)  # all that it lacks is there
        onnx.external_data_helper.set_external_data(kernel, elsewhere)
        kernel.ClearField("raw_data")
        pointing = path.with_name("pointing.onnx")
        pointing.write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=r"pointing\.onnx: keeps t0 in another file; make it"):
            convert(pointing, tmp_path / "w")
        assert not (tmp_path / "w").exists()


def test_a_layer_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caffe imports the module that a Python layer names; here such a layer is a name."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trap_module.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    says = {"python.module": "trap_module", "python.layer": "Layer"}
    data, *layers = caffe.alexnet(side=227)
    brings = caffe.Layer("Python", "data", (), ("data", "label"), says=says)
    path = caffe.save(tmp_path / "a.caffemodel", [brings, *layers])
    assert from_caffe.read(path).input_size == 227  # what brings the images does not matter
    between = caffe.Layer("Python", "twist", ("data",), ("data",), says=says)
    caffe.save(path, [data, between, *layers])
    with pytest.raises(UserError, match="the Python 'twist' is nothing that this network does"):
        convert(path, tmp_path / "w")
    assert not sprung.exists()
    __import__("trap_module")
    assert sprung.is_dir(), "the trap does not work, so the test holds nothing"
