"""The weights of torchvision's `alexnet`, as training scripts leave them.

A `.pth` file is a pickle, which may ask for anything to be run while it is read. It is read by
`torch.load(weights_only=True)`, which knows tensors and plain containers; what else a file asks for
(the flags of its script, NumPy's numbers, a module) is `Inert`. Nothing of it is run.

Where in a checkpoint the network is, is told by the name of its first tensor: what stands before
`features.0.weight` is a key, an attribute of Lightning's module, or a wrapper.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.exchange.weights import Layer, Weights, numbers

# What the state dict does not say: kernel, stride, padding, and what comes after
# (torchvision/models/alexnet.py).
CONVOLUTIONS = {
    "features.0": (11, 4, 2, "activation pool"),
    "features.3": (5, 1, 2, "activation pool"),
    "features.6": (3, 1, 1, "activation"),
    "features.8": (3, 1, 1, "activation"),
    "features.10": (3, 1, 1, "activation pool dropout"),
}
DENSE = {
    "classifier.1": "activation dropout",
    "classifier.4": "activation",
    "classifier.6": "",
}
FIRST = "features.0.weight"
MEAN_IMAGE = "mean_image"  # in what `torch_folder` writes, which is another convention
# What data parallelism, torch.compile and FSDP put into names, wherever they wrap something.
WRAPPERS = re.compile(r"\b(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
AVERAGES = re.compile(r"(?<![a-z])(?:ema|swa)(?![a-z])|averag|shadow|teacher", re.IGNORECASE)
# What files ask for beside their tensors; those of before 2020 do not list it.
USUAL = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip
COUNTED = "n_averaged"  # in the state dict of torch.optim.swa_utils.AveragedModel


class Inert:
    """Stands in for whatever else a file asks for: it keeps its state, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Place(NamedTuple):
    """A network in a checkpoint.

    Attributes:
        where: it is: keys and attributes up to it, 'state_dict.model'; empty for the whole file.
        tensors: by their names in it.
        beside: tensors that are kept with it, and are no part of it.
    """

    where: str
    tensors: dict[str, Any]
    beside: dict[str, Any]


def read_pth(path: Path) -> Weights:
    """The weights in a file that `torch.save` wrote.

    Raises:
        UserError: torch is missing or too old, or the file is something else than these weights.
    """
    return _weights(_load_pth(path), "PyTorch state dict")


def load(path: Path) -> dict[str, np.ndarray]:
    """The floating-point tensors of a state dict, in float32 where they are narrower.

    Raises:
        UserError: as `read_pth` and `read_safetensors`.
    """
    if path.suffix.lower() == ".safetensors":
        return _load_safetensors(path)
    tensors = _tensors(_load_pth(path))
    return {
        WRAPPERS.sub("", str(name)): _array(str(name), tensor)
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }


def _load_pth(path: Path) -> Mapping[Any, Any]:
    """What `torch.save` was given: plain values, tensors, and `Inert` for all else."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            f"a {path.suffix} file needs torch: pip install torch, or give the weights as "
            ".safetensors"
        ) from error
    if torch.torch_version.TorchVersion(torch.__version__) < "2.6":
        raise UserError(
            f"torch {torch.__version__} may run what is hidden in a {path.suffix} file "
            "(CVE-2025-32434): pip install 'torch>=2.6', or give the weights as .safetensors"
        )
    asked = set(USUAL)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that are refused anyway
        try:
            asked |= set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        except Exception as error:  # there is no list
            if "torchscript" in str(error):
                raise UserError(
                    "is a TorchScript program: save its weights, with "
                    "torch.save(torch.jit.load(PATH).state_dict(), OTHER_PATH)"
                ) from error
        file.seek(0)
        try:
            with torch.serialization.safe_globals([(Inert, name) for name in asked]):
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of a dozen types; their texts advise weights_only=False
            asks = re.search(r"GLOBAL:? (?:GLOBAL )?([\w.]+)", str(error))
            reason = f"it asks for {asks[1]}" if asks else "it holds something else, or is damaged"
            raise UserError(
                f"is no plain state dict: {reason}. Nothing in it was run; "
                "save one with torch.save(model.state_dict(), PATH)"
            ) from error
    found = _module(found, {}) if isinstance(found, Inert) else found
    if not isinstance(found, Mapping):
        raise UserError(f"holds a {type(found).__name__}, expected a state dict")
    return found


def read_safetensors(path: Path) -> Weights:
    """The weights in a `.safetensors` file.

    Raises:
        UserError: safetensors is missing, or the file is something else than these weights.
    """
    return _weights(_load_safetensors(path), "safetensors state dict")


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors in a `.safetensors` file; those of 16 bits are widened to float32.

    Raises:
        UserError: safetensors is missing, or the file is damaged.
    """
    try:
        from safetensors import numpy as safetensors
    except ModuleNotFoundError as error:
        raise UserError("a .safetensors file needs safetensors: pip install safetensors") from error
    import ml_dtypes  # whose bfloat16 is NumPy's

    narrow = (np.float16, ml_dtypes.bfloat16)
    try:
        arrays = safetensors.load_file(path)
    except Exception as error:  # its own, and NumPy's of a type it does not know
        raise UserError(f"cannot be read as safetensors: {error}") from error
    return {n: a.astype(np.float32) if a.dtype in narrow else a for n, a in arrays.items()}


# --- where in a checkpoint the network is ---------------------------------------------------------


def _weights(found: Mapping[Any, Any], kind: str) -> Weights:
    """The network of a checkpoint; where there are averages of it as well, itself."""
    if any(str(name).endswith(MEAN_IMAGE) for name in _tensors(found)):
        raise UserError(
            "was exported by alexnet_jax, and says not what it is: put it beside its config.json"
        )
    places = list(_places(found))
    own = [place for place in places if not AVERAGES.search(place.where)] or places
    if not own:
        names = _tensors(found) or found
        return weights_of({str(name): _array(str(name), names[name]) for name in names}, kind)
    chosen, *others = own
    if others:
        raise UserError(
            f"holds two networks, {_named(chosen)} and {_named(others[0])}: save the state dict of "
            "one with torch.save"
        )
    for name, value in chosen.beside.items():
        if value.ndim > 1:  # what a layer could be
            raise UserError(
                f"has a tensor {name} beside {_named(chosen)}, which torchvision's alexnet has not"
            )
    left = [*(_named(place) for place in places if place is not chosen), *chosen.beside]
    said = [f"{chosen.where} taken"] * bool(chosen.where) + [f"{name} left" for name in left]
    arrays = {name: _array(name, value) for name, value in chosen.tensors.items()}
    return weights_of(arrays, f"{kind} ({', '.join(said)})" if said else kind)


def _named(place: Place) -> str:
    return place.where or "its own"


def _places(found: Any) -> Iterator[Place]:
    """Yields the networks of a checkpoint."""
    for where, mapping in _mappings(found):
        names: dict[str, Any] = {}
        twice = ""
        for key, value in mapping.items():
            name = WRAPPERS.sub("", str(key))
            twice = twice or f"{name} twice, once as {key}" * (name in names)
            names[name] = value
        starts = [n.removesuffix(FIRST) for n in names if n == FIRST or n.endswith(f".{FIRST}")]
        if starts and twice:
            raise UserError(f"has {twice}: save one model's state dict")
        for start in starts:
            others = tuple(s for s in starts if len(s) > len(start))
            inside = {n: v for n, v in names.items() if n.startswith(start)}
            tensors = {
                n.removeprefix(start): v for n, v in inside.items() if not n.startswith(others)
            }
            beside = {n: v for n, v in names.items() if not n.startswith(tuple(starts))}
            tensors.pop(COUNTED, None)
            beside.pop(COUNTED, None)
            yield Place((where + start).removesuffix("."), tensors, _with_shapes(beside))


def _mappings(found: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yields what a checkpoint, which may hold itself, has by name, each with where that is."""
    seen: dict[int, Any] = {}  # kept, or another could have its number
    pending = [("", found)]
    while pending:
        where, value = pending.pop(0)
        value = _module(value, seen) if isinstance(value, Inert) else value
        if isinstance(value, Mapping) and id(value) not in seen:
            seen[id(value)] = value
            yield where, value
            pending += [(f"{where}{key}.", inner) for key, inner in value.items()]


def _with_shapes(found: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in found.items() if hasattr(value, "ndim")}


def _tensors(found: Mapping[Any, Any]) -> dict[Any, Any]:
    """Those of a state dict, also where it is among other things."""
    return next((own for _, inner in _mappings(found) if (own := _with_shapes(inner))), {})


def _module(module: Inert, seen: dict[int, Any]) -> Any:
    """The state dict of a module that was saved whole, by its own state; else what was given."""
    state = module.state if isinstance(module.state, Mapping) else {}
    parts = [state.get(f"_{kind}") for kind in ("parameters", "buffers", "modules")]
    own, buffers, children = (part if isinstance(part, Mapping) else None for part in parts)
    if own is None or buffers is None or children is None or id(module) in seen:
        return module
    seen[id(module)] = module
    found = {**own, **buffers}
    for name, child in children.items():
        inner = _module(child, seen) if isinstance(child, Inert) else None
        if isinstance(inner, Mapping):
            found |= {f"{name}.{key}": value for key, value in inner.items()}
    return found


def _array(name: str, value: Any) -> np.ndarray:
    """A tensor of numbers, widened to float32 where it is narrower."""
    if isinstance(value, np.ndarray):
        return value
    import torch

    if not (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
    ):
        kind = getattr(value, "dtype", type(value).__name__)
        raise UserError(f"{name} is {kind}, expected a tensor of numbers")
    array: np.ndarray = value.detach().float().numpy()
    return array


# --- the layers -----------------------------------------------------------------------------------


def weights_of(arrays: Mapping[str, np.ndarray], kind: str) -> Weights:
    """The layers of a state dict.

    Raises:
        UserError: a tensor is missing, is one too many, or has another shape.
    """
    layers = [*CONVOLUTIONS, *DENSE]
    known = [f"{layer}.{which}" for layer in layers for which in ("weight", "bias")]
    unexpected = sorted(arrays.keys() - set(known))
    for name in known:
        if name not in arrays:
            others = ", ".join(unexpected[:3]) or "no others"
            raise UserError(f"has no tensor {name}, as torchvision's alexnet has; it has {others}")
    if unexpected:
        raise UserError(f"has a tensor {unexpected[0]}, which torchvision's alexnet has not")

    found = []
    for name in layers:
        kernel, bias = (numbers(key, arrays[key]) for key in (f"{name}.weight", f"{name}.bias"))
        geometry: dict[str, Any] = {}
        expected = "(O, I)"
        fits = kernel.ndim == 2
        if name in CONVOLUTIONS:
            size, stride, pad, after = CONVOLUTIONS[name]
            geometry = {"stride": stride, "padding": (pad, pad)}
            expected = f"(O, I, {size}, {size})"
            fits = kernel.ndim == 4 and kernel.shape[2:] == (size, size)
        else:
            after = DENSE[name]
        if not fits:
            raise UserError(f"{name}.weight has shape {kernel.shape}, expected {expected}")
        found.append(Layer(f"{name}.weight", kernel, bias, after=after.split(), **geometry))
    return Weights(kind, found, 224, "torchvision", {"norm": "none", "dropout": 0.5})
