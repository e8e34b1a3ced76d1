"""Foreign weights become a directory like that of a run."""

import dataclasses
import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.errors import UserError
from alexnet_jax.exchange import (
    from_caffe,
    from_numpy,
    from_onnx,
    from_torch,
    torch_folder,
    weights,
)
from alexnet_jax.exchange.class_names import class_names
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
    ".bin": from_torch.read_pth,
    ".safetensors": from_torch.read_safetensors,
    ".caffemodel": from_caffe.read,
    ".npy": from_numpy.read,
}


def convert(
    file: Path,
    out: Path,
    *,
    pixels: str | None = None,
    mean_file: Path | None = None,
    classes: Path | None = None,
) -> dict[str, Any]:
    """Makes a directory like that of a run.

    Args:
        file: the weights, or a folder that `export --format=torch` wrote.
        out: the directory; must not be there, or be empty.
        pixels: a name of `weights.PIXELS`; None for what such files are made for.
        mean_file: Caffe's mean image, BGR, (S, S, 3) or (3, S, S), as .npy or .binaryproto.
        classes: the names of the classes, a line each (see `class_names`).

    Returns:
        What `converted.json` says.

    Raises:
        UserError: the file cannot be read or is no such network, or `out` is in use, or `pixels` is
            None and the file may be for either.
        OSError: a file is not there, or `out` cannot be written.
    """
    check_out(out)
    if file.is_dir():
        file = file / torch_folder.WEIGHTS
    read = next((r for end, r in READERS.items() if file.name.lower().endswith(end)), None)
    if read is None:
        raise UserError(f"{file} is none of the files that are read: {', '.join(READERS)}")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    of_torch = read in (from_torch.read_pth, from_torch.read_safetensors)
    if of_torch and (about := torch_folder.described(file)):
        given = {"pixels": pixels, "mean_file": mean_file, "classes": classes}
        if flag := next((name for name, value in given.items() if value), None):
            raise UserError(f"{file} was exported with its own {flag}: leave out --{flag}")
        return take_back(file, about, out, digest)
    try:
        found = read(file)
        network = weights.network_of(found)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    pixels = pixels or found.pixels
    if pixels is None:
        ways = " or ".join(f"--pixels={name} ({known})" for name, known in weights.PIXELS.items())
        raise UserError(f"{file} does not say what pixels it was trained to see: give {ways}")
    seen = found.seen if found.seen and pixels == found.pixels else weights.PIXELS[pixels]
    names = class_names(network.classes, classes)
    mean_image = mean_of(seen, network.input_size, mean_file)
    learning = weights.learning_as_before(network, seen)
    config = config_of(learning, len(mean_image), aligned=mean_file is not None)
    params, folded = weights.params_of(found, network, seen)
    made = {
        "file": file.name,
        "sha256": digest,
        "format": found.format,
        "pixels": pixels,
        "seen": str(seen),
        "mean": mean_file.name if mean_file else list(seen.mean),
        "trained_with_mean": found.mean_file,
        "folded": folded,
        "parameters": weights.count(params),
        "classes": network.classes,
        "class_names": classes.name if classes else None,
    }
    variables = {"params": params, "batch_stats": {}}
    write(out, config, variables, mean_image, names, made)
    return made


def take_back(file: Path, about: Mapping[str, Any], out: Path, digest: str) -> dict[str, Any]:
    """Makes a run of what `torch_folder` wrote; the rest is as `convert` has it."""
    try:
        found = torch_folder.read(file, about, digest)
        config = config_of(found.network, len(found.mean_image), aligned=found.aligned)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    made: dict[str, Any] = {
        "file": file.name,
        "sha256": digest,
        "format": f"exported by {about['made_by']}",
        "pixels": None,
        "mean": "its own",
        "folded": [],
        "parameters": weights.count(found.variables["params"]),
        "classes": found.network.classes,
        "trained_with_mean": None,
        "class_names": "its own",
        "origin": found.origin,
    }
    write(out, config, found.variables, found.mean_image, found.class_names, made)
    return made


def check_out(out: Path) -> None:
    """Refuses a directory to write that has something in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is in use: name a directory that is not there, or is empty")


def config_of(network: Network, size: int, *, aligned: bool) -> ConfigDict:
    """A run's configuration with the network in it.

    Args:
        network: the network.
        size: of the pictures that it is shown crops of, pixels.
        aligned: a mean image is subtracted where the crop was, as Caffe does.
    """
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(network))
    config.data.size = size
    config.data.mean = "aligned" if aligned else "centre"
    settings.check(config)
    return config


def mean_of(seen: weights.Pixels, input_size: int, mean_file: Path | None) -> np.ndarray:
    """The mean image, RGB, (S, S, 3) float32: as large as the pictures were that it is the mean of.

    Args:
        seen: the pixels.
        input_size: of the network, pixels.
        mean_file: Caffe's mean image. None for the mean pixel everywhere; S is then 256, or the
            size of the input.

    Raises:
        UserError: the file is no such image, or none belongs to such pixels.
    """
    if mean_file is None:
        size = max(base.get_config().data.size, input_size)
        return np.full((size, size, 3), seen.mean, np.float32)
    if seen.order != "BGR":
        raise UserError(f"--mean_file={mean_file} belongs to --pixels=caffe, not to {seen}")
    try:
        if mean_file.suffix.lower() == ".binaryproto":
            image = from_caffe.read_mean(mean_file)
        else:
            image = np.load(mean_file)
        if not isinstance(image, np.ndarray):
            raise ValueError("it holds several arrays")
    except (ValueError, EOFError) as error:
        raise UserError(f"--mean_file={mean_file} is no .npy file of numbers: {error}") from error
    except UserError as error:
        raise UserError(f"--mean_file={mean_file} {error}") from error
    if image.ndim == 3 and image.shape[0] == 3:
        image = image.transpose(1, 2, 0)
    size = image.shape[0] if image.ndim else 0
    if image.shape != (size, size, 3) or size < input_size:
        raise UserError(
            f"--mean_file={mean_file} has shape {image.shape}, expected (S, S, 3) or (3, S, S), "
            f"BGR, with S the size of the pictures, at least {input_size}"
        )
    return weights.numbers(f"--mean_file={mean_file}", image)[:, :, ::-1].astype(np.float32)


def write(
    out: Path,
    config: ConfigDict,
    variables: Mapping[str, weights.Params],
    mean_image: np.ndarray,
    names: Sequence[str],
    made: dict[str, Any],
    batch_stats: weights.Params | None = None,
) -> None:
    """Writes the directory of a run whose step is 0; without its config.json it is none."""
    out.mkdir(parents=True, exist_ok=True)
    model = jax.device_put(variables, shardings(variables, make_mesh(1, 1)))
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
    if not made["class_names"]:
        names = "ImageNet's" if made["classes"] == 1000 else "class0, class1, ..."
        print(f"Their names are {names}: --classes=FILE gives others, a line each.")
    print(f"sha256 {made['sha256']}")
    if made["pixels"]:
        print(f"Trained on {made['seen']} (--pixels={made['pixels']}). Folded in:")
    for line in made["folded"]:
        print(f"  {line}")
    mean = made["mean"]
    shown = mean if isinstance(mean, str) else "RGB {:.2f}, {:.2f}, {:.2f}".format(*mean)
    print(f"Now it takes RGB pixels 0..255 minus a mean image, {shown}.")
    if (theirs := made["trained_with_mean"]) and not isinstance(mean, str):
        print(f"In training this was {Path(theirs).name!r}: --mean_file=PATH takes that.")
    print(f"\nIn {out}: config.json, checkpoints/, input/, converted.json. Next:\n")
    workdir = shlex.quote(f"--workdir={out}")
    print(f"    python -m alexnet_jax.predict {workdir} photo.jpg")
    print(f"    python -m alexnet_jax.main {workdir} --mode=describe")
    weights_flag = shlex.quote(f"--config.init_from={out}")
    if made["classes"] == 1000:  # ImageNet, prepared
        print(f"    python -m alexnet_jax.main {workdir} --mode=evaluate \\")
        print("        --config.data.cache=DIR")
    print("\nOn your own classes, a folder of photos each:\n")
    print("    python -m alexnet_jax.main --workdir=W2 --config=finetune \\")
    print(f"        {weights_flag} --config.data.source=folder:photos")
