"""Checkpoints as training scripts leave them: the network in them is found, and nothing is run."""

import argparse
import builtins
import dataclasses
import pathlib
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import convert_fixtures as other
import ml_dtypes
import numpy as np
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.exchange import converting, from_torch
from alexnet_jax.exchange.weights import Weights

ARRAYS = other.torchvision_arrays()
AVERAGE = other.torchvision_arrays(seed=1)  # another network's numbers


@dataclasses.dataclass
class Flags:
    """A script's own class."""

    rate: float = 0.01
    out: Any = None


def read(path: Path) -> Weights:
    """What `convert` reads of a file, by its name."""
    reader = next(r for end, r in converting.READERS.items() if path.name.endswith(end))
    return reader(path)


def holds(found: Weights, arrays: dict[str, np.ndarray]) -> bool:
    """Whether these are the numbers, bit for bit."""
    pairs = zip(found.layers, list(arrays.items())[::2], strict=True)
    return all(layer.name == n and np.array_equal(layer.kernel, a) for layer, (n, a) in pairs)


def prefixed(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """The same under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


Make = Callable[[dict[str, Any], dict[str, Any]], Any]  # of the tensors and the average's
KEPT: dict[str, tuple[str, Make, str]] = {  # by the way: the file, what it holds, what is said
    "plain": ("a.pth", lambda t, _: t, ""),
    "of Hugging Face": ("pytorch_model.bin", lambda t, _: OrderedDict(t), ""),
    "PyTorch's ImageNet example": (
        "model_best.pth.tar",
        lambda t, _: {
            "epoch": 90,
            "arch": "alexnet",
            "state_dict": {n.replace("features.", "features.module."): a for n, a in t.items()},
            "best_acc1": np.float64(56.5),
            "optimizer": {"state": {0: {"momentum_buffer": t["features.0.weight"]}}},
        },
        " (state_dict taken)",
    ),
    "torchvision's script": (
        "model_89.pth",
        lambda t, e: {
            "model": t,
            "args": argparse.Namespace(lr=0.01, output=pathlib.PurePosixPath("out")),
            "model_ema": {**prefixed("module.", e), "n_averaged": t["features.0.bias"][0].long()},
            "scaler": {"scale": np.arange(3)},
        },
        " (model taken, model_ema left)",
    ),
    "a script's own class": ("a.pth", lambda t, _: {"net": t, "f": Flags()}, " (net taken)"),
    "Lightning": (
        "last.ckpt",
        lambda t, e: {
            "state_dict": prefixed("net.", t)
            | prefixed("ema_net.module.", e)
            | {"loss.weight": t["features.0.bias"]},
            "pytorch-lightning_version": "2.4.0",
            "hyper_parameters": {"flags": Flags(out=pathlib.PurePosixPath("out"))},
        },
        " (state_dict.net taken, state_dict.ema_net left, loss.weight left)",
    ),
    "compiled, in DDP": ("a.pt", lambda t, _: prefixed("_orig_mod.module.", t), ""),
    "compiled inside": (
        "a.pt",
        lambda t, _: {n.replace("features.", "features._orig_mod."): a for n, a in t.items()},
        "",
    ),
    "deeper": ("a.pt", lambda t, _: {"state": {"model": prefixed("module.", t)}}, " (state.model"),
    "an average alone": ("ema.pth", lambda t, _: {"ema": t}, " (ema taken)"),
    "an averaged model": (
        "swa.pth",
        lambda t, _: {"n_averaged": t["features.0.bias"][0].long(), **prefixed("module.", t)},
        "",
    ),
}


OLD = ("plain", "PyTorch's ImageNet example")  # also in the format of before 2020


@pytest.mark.parametrize(
    ("way", "old"), [*((way, False) for way in KEPT), *((w, True) for w in OLD)]
)
def test_ways_to_keep_it(way: str, old: bool, reference: ModuleType, tmp_path: Path) -> None:
    """The network's numbers come out, not those of its average, and what was left is said."""
    import torch

    name, make, said = KEPT[way]
    tensors, average = ({n: torch.tensor(a) for n, a in d.items()} for d in (ARRAYS, AVERAGE))
    torch.save(make(tensors, average), tmp_path / name, _use_new_zipfile_serialization=not old)
    found = read(tmp_path / name)
    assert holds(found, ARRAYS) and not holds(found, AVERAGE)
    assert found.format.startswith(f"PyTorch state dict{said}")


def test_a_module_that_was_saved_whole(reference: ModuleType, tmp_path: Path) -> None:
    """Its class need not be there: of what it is, only the tensors are looked at."""
    import torch

    module = other.torchvision_alexnet(ARRAYS)
    for number, content in enumerate((module, {"model": torch.nn.DataParallel(module)})):
        torch.save(content, tmp_path / f"{number}.pth")
        assert holds(read(tmp_path / f"{number}.pth"), ARRAYS)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits(kind: Any, tmp_path: Path) -> None:
    """Are widened, without a word of NumPy's."""
    narrow = {name: array.astype(kind) for name, array in ARRAYS.items()}
    path = other.saved(prefixed("net.", narrow), tmp_path / "w.safetensors")
    found = read(path)
    assert holds(found, {name: array.astype(np.float32) for name, array in narrow.items()})
    assert found.format == "safetensors state dict (net taken)"


class Runs:
    """Makes a directory when it is unpickled by anything that does what it is asked."""

    def __init__(self, way: str, path: Path) -> None:
        self.way, self.path = way, path

    def __reduce__(self) -> Any:
        code = f"__import__('os').mkdir({str(self.path)!r})"
        return {
            "eval": (builtins.eval, (code,)),
            "exec": (builtins.exec, (code,)),
            "subprocess": (subprocess.check_call, (["mkdir", str(self.path)],)),
            "pathlib": (pathlib.Path.mkdir, (self.path,)),
        }[self.way]


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("way", ["eval", "exec", "subprocess", "pathlib"])
def test_traps_beside_the_weights(
    way: str, old: bool, reference: ModuleType, tmp_path: Path
) -> None:
    """Stay what they are: a file is read or refused, and runs nothing."""
    import torch

    path, trap = tmp_path / "w.pth", tmp_path / "trap"
    tensors = {name: torch.tensor(array) for name, array in ARRAYS.items()}
    content = {"state_dict": tensors, "args": Runs(way, trap)}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    try:
        assert holds(read(path), ARRAYS)
    except UserError as error:
        assert "Nothing in it was run" in str(error)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap does not work, so the test holds nothing"


REFUSED: dict[str, tuple[Make, str]] = {
    "two": (lambda t, e: {"a": t, "b": e}, "holds two networks, a and b: save"),
    "a new head": (
        lambda t, _: {**prefixed("base.", t), "head.weight": t["classifier.6.weight"]},
        "has a tensor head.weight beside base, which",
    ),
    "a head in its place": (
        lambda t, _: {n.replace("classifier.6", "classifier.6.1"): a for n, a in t.items()},
        "has no tensor classifier.6.weight, as torchvision's alexnet has; it has classifier.6.1.b",
    ),
    "features alone": (
        lambda t, _: {n: a for n, a in t.items() if n.startswith("features")},
        "has no tensor classifier.1.weight",
    ),
    "twice": (
        lambda t, e: {**t, **prefixed("module.", e)},
        "has features.0.weight twice, once as module.features.0.weight",
    ),
    "another network": (
        lambda t, _: {"epoch": 3, "state_dict": {"layer1.weight": t["features.0.weight"]}},
        "has no tensor features.0.weight, as torchvision's alexnet has; it has layer1.weight",
    ),
    "no tensors": (lambda t, _: {"epoch": 3}, "epoch is int, expected a tensor"),
    "a stand-in": (
        lambda t, _: {**t, "features.0.bias": Flags()},
        "features.0.bias is Inert, expected a tensor",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, reference: ModuleType, tmp_path: Path) -> None:
    """By the tensor's name."""
    import torch

    make, message = REFUSED[what]
    tensors, average = ({n: torch.tensor(a) for n, a in d.items()} for d in (ARRAYS, AVERAGE))
    torch.save(make(tensors, average), tmp_path / "w.pth")
    with pytest.raises(UserError) as info:
        read(tmp_path / "w.pth")
    assert message in str(info.value)


def test_programs_and_circles(reference: ModuleType, tmp_path: Path) -> None:
    """A TorchScript program is named as such; a checkpoint that holds itself has an end."""
    import torch

    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), tmp_path / "s.pt")
    with pytest.raises(UserError, match=r"is a TorchScript program.*torch\.jit\.load"):
        read(tmp_path / "s.pt")
    circle: dict[str, Any] = {"state_dict": {n: torch.tensor(a) for n, a in ARRAYS.items()}}
    circle["itself"] = [circle]
    circle["again"] = circle
    torch.save(circle, tmp_path / "c.pth")
    assert holds(read(tmp_path / "c.pth"), ARRAYS)
    circle.pop("state_dict")
    torch.save(circle, tmp_path / "c.pth")
    with pytest.raises(UserError, match="expected a tensor"):
        read(tmp_path / "c.pth")


def test_the_words_of_averages() -> None:
    """`schema` is none."""
    for name in ("ema", "model_ema", "ema_model", "state_dict.EMA.net", "swa_model", "averaged"):
        assert from_torch.AVERAGES.search(name)
    for name in ("schema", "model", "state_dict.net", "cinema"):
        assert not from_torch.AVERAGES.search(name)
