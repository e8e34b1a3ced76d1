"""A folder that PyTorch's users can take: weights, their module, what they mean, a card.

    model.safetensors   the state dict, with the mean image
    alexnet.py          the network as a `torch.nn.Module`; needs torch and safetensors alone
    README.md           the card
    config.json         the network, its pixels, its classes

Weights with such a config.json beside them are read back, bit for bit: also those that were trained
on in PyTorch and saved in the place of the first.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax import __version__
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange import from_torch, model_card, torch_arrays, torch_source, weights
from alexnet_jax.files import whole
from alexnet_jax.model import AlexNet, Network

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FILES = (WEIGHTS, "alexnet.py", "README.md", CONFIG)
MADE_BY = f"alexnet_jax {__version__}"


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        network: what the layers are.
        variables: `params` and `batch_stats`.
        mean_image: (S, S, 3) float32.
        aligned: it is subtracted where a crop was.
        class_names: of each label, as the dataset has them.
        origin: how it was made, a sentence.
    """

    network: Network
    variables: dict[str, Any]
    mean_image: np.ndarray
    aligned: bool
    class_names: list[str]
    origin: str


def write(trained: TrainedNetwork, out: Path) -> int:
    """Writes the folder, all of it or nothing; its own files are replaced.

    Args:
        trained: the network, of a run's directory.
        out: the folder; made if it is not there.

    Returns:
        The size of the weights, bytes.

    Raises:
        UserError: PyTorch has no such layer.
        OSError: it cannot be written.
    """
    from safetensors import numpy as safetensors

    network = trained.viewer.model.network
    mean_image = np.asarray(trained.viewer.mean_image)
    variables = jax.device_get(trained.variables)
    count = weights.count(variables["params"])
    source = torch_source.source(network, trained.size, count)
    arrays = torch_arrays.state_dict(network, variables, mean_image)
    saved = safetensors.save(arrays, {"format": "pt", "made_by": MADE_BY})
    about = description(trained) | {"sha256": hashlib.sha256(saved).hexdigest()}
    card = model_card.card(trained, about, count)
    contents = {
        WEIGHTS: saved,
        "alexnet.py": source.encode(),
        "README.md": card.encode(errors="replace"),
        CONFIG: as_json(about),
    }
    made = not out.exists()
    out.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as directory:
            for name, content in contents.items():
                with whole(Path(directory, name)) as file:
                    file.write(content)
            # While there is none, the folder is no network.
            (out / CONFIG).unlink(missing_ok=True)
            for name in FILES:
                os.replace(Path(directory, name), out / name)
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty: all went well
                out.rmdir()
    return len(saved)


def description(trained: TrainedNetwork) -> dict[str, Any]:
    """What config.json says."""
    return {
        "made_by": MADE_BY,
        "origin": model_card.origin(trained),
        "step": trained.step,
        "pixels": {
            "resize": trained.size,
            "crop": trained.viewer.crop,
            "mean": trained.config.data.mean,
        },
        "classes": trained.classes,
        "class_names": trained.class_names,
        "network": asdict(trained.viewer.model.network),
    }


def as_json(about: Mapping[str, Any]) -> bytes:
    """For people, unless a name is no text: a folder's may be bytes that are no UTF-8."""
    try:
        return (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(about, indent=2) + "\n").encode()


def described(file: Path) -> dict[str, Any] | None:
    """What the config.json beside a file of weights says, if `write` wrote it."""
    try:
        about = json.loads((file.parent / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(about, dict) and str(about.get("made_by", "")).startswith("alexnet_jax ")
    return about if ours else None


def read(file: Path, about: Mapping[str, Any], digest: str) -> Found:
    """What the folder holds.

    Args:
        file: the weights in it, `.safetensors` or what `torch.save` wrote.
        about: what `described` found.
        digest: their sha256.

    Raises:
        UserError: the two do not fit each other, or one is damaged.
    """
    arrays = from_torch.load(file)
    try:
        network = Network.from_dict(about["network"])
        size, aligned = int(about["pixels"]["resize"]), about["pixels"]["mean"] == "aligned"
        class_names = [str(name) for name in about["class_names"]]
        origin, before = str(about["origin"]), str(about["sha256"])
        if len(class_names) != network.classes:
            raise ValueError(f"{len(class_names)} names for {network.classes} classes")
        shapes = AlexNet(network).shapes()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"has a {CONFIG} beside it that is damaged: {error!r}") from error
    mean_image = arrays.pop(from_torch.MEAN_IMAGE, np.zeros(0))
    if mean_image.shape != (3, size, size):
        raise UserError(
            f"{from_torch.MEAN_IMAGE} has shape {mean_image.shape}, expected {(3, size, size)}"
        )
    mean_image = np.ascontiguousarray(mean_image.transpose(1, 2, 0), np.float32)
    variables = torch_arrays.variables_of(network, shapes, arrays)
    origin += "" if digest == before else " Another program has changed them since."
    return Found(network, variables, mean_image, aligned, class_names, origin)
