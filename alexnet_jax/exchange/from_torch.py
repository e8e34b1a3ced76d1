"""The weights of torchvision's `alexnet`: a state dict in a `.pth` or `.safetensors` file.

A `.pth` file is a pickle, which may ask for anything to be run while it is read. It is read by
`torch.load(weights_only=True)`, which knows tensors and plain containers and refuses the rest.
"""

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
# Where a training script keeps the state dict among other things, and what data parallelism,
# Lightning and torch.compile put before its names, or inside of them.
WRAPPINGS = ("state_dict", "model_state_dict", "model")
WRAPPERS = re.compile(r"^(?:model\.|_orig_mod\.)+|\bmodule\.")
DENSE = {
    "classifier.1": "activation dropout",
    "classifier.4": "activation",
    "classifier.6": "",
}


def read_pth(path: Path) -> Weights:
    """The weights in a file that `torch.save` wrote.

    Raises:
        UserError: torch is missing or too old, or the file is something else than these weights.
    """
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
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that are refused anyway
        try:
            with torch.serialization.safe_globals(
                [argparse.Namespace]
            ):  # their flags: plain values
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of a dozen types; their texts advise weights_only=False
            asks = re.search(r"GLOBAL:? (?:GLOBAL )?([\w.]+)", str(error))
            reason = f"it asks for {asks[1]}" if asks else "it holds something else, or is damaged"
            raise UserError(
                f"is no plain state dict: {reason}. Nothing in it was run; "
                "save one with torch.save(model.state_dict(), PATH)"
            ) from error
    for key in WRAPPINGS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise UserError(f"holds a {type(found).__name__}, expected a state dict")
    arrays = {}
    for name, value in found.items():
        if not (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and value.layout == torch.strided
        ):
            kind = getattr(value, "dtype", type(value).__name__)
            raise UserError(f"{name} is {kind}, expected a tensor of numbers")
        arrays[str(name)] = value.detach().float().numpy()
    return weights_of(arrays, "PyTorch state dict")


def read_safetensors(path: Path) -> Weights:
    """The weights in a `.safetensors` file.

    Raises:
        UserError: safetensors is missing, or the file is something else than these weights.
    """
    try:
        from safetensors import numpy as safetensors
    except ModuleNotFoundError as error:
        raise UserError("a .safetensors file needs safetensors: pip install safetensors") from error
    try:
        arrays = safetensors.load_file(path)
    except Exception as error:  # its own, and NumPy's of a type it does not know
        raise UserError(f"cannot be read as safetensors: {error}") from error
    return weights_of(arrays, "safetensors state dict")


def weights_of(arrays: Mapping[str, np.ndarray], kind: str) -> Weights:
    """The layers of a state dict; before the names may stand what wrappers of a model put there.

    Raises:
        UserError: a tensor is missing, is one too many, or has another shape.
    """
    arrays = {WRAPPERS.sub("", name): array for name, array in arrays.items()}
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
