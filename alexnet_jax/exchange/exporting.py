"""A trained network for other programs: StableHLO, ONNX in three precisions, or PyTorch."""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alexnet_jax import __version__
from alexnet_jax.errors import UserError
from alexnet_jax.files import whole

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from alexnet_jax.evaluation.trained_network import TrainedNetwork


# The packages that each needs, beyond those that training does; int8 is onnxruntime's work.
NEEDS = {"stablehlo": ("flatbuffers",), "onnx": ("onnx",), "torch": ("safetensors",)}
PRECISIONS = ("float32", "float16", "int8")
PLATFORMS = ("cpu", "cuda", "tpu")
CALIBRATION = 256  # images that say how large activations become
AT_ONCE = 32  # of these


class Calibration(NamedTuple):
    """Where the images of an int8 export come from: by default the run's own training split.

    Attributes:
        files: images of their own.
        cache: a prepared cache instead of the run's.
        data_dir: the directory of datasets, if it is not the run's.
    """

    files: Sequence[str] = ()
    cache: str | None = None
    data_dir: str | None = None


def export(
    workdir: Path,
    out: Path,
    form: str,
    *,
    precision: str = "float32",
    best: bool = False,
    calibration: Calibration | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the network of a run, and prints what was written.

    Args:
        workdir: of the run, or of converted weights.
        out: the file; with StableHLO its description is `out` with '.json' appended. With PyTorch
            the folder, see `torch_folder`.
        form: 'stablehlo', 'onnx' or 'torch'.
        precision: 'float32'; of ONNX also 'float16' or 'int8'.
        best: the checkpoint with the lowest validation error instead of the last.
        calibration: images for int8.
        overwrite: replace what is there.

    Raises:
        UserError: the form has no such precision, `out` is there already, a package is missing,
            there is no such run, or its dataset is wanted and not there.
    """
    from alexnet_jax.settings import ConfigError

    if form != "onnx" and precision != "float32":
        raise ConfigError(f"--precision={precision} is for --format=onnx; {form} is float32")
    for path in written(out, form):
        if path.exists() and not overwrite:
            raise UserError(f"{path} is there already: remove it, or give another --out")
    if form == "torch" and out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file: torch makes a folder, give another name")
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: there is no directory {out.parent}")
    _require(form, *NEEDS[form], *["onnxruntime"] * (precision == "int8"))
    import jax

    from alexnet_jax import load
    from alexnet_jax.model import make_mesh

    trained = load(workdir, best=best, mesh=make_mesh(1, 1, devices=jax.devices()[:1]))
    if form == "torch":
        from alexnet_jax.exchange import torch_folder

        megabytes = torch_folder.write(trained, out) / 1e6
        step = f"step {trained.step:,} of {workdir}"
        print(f"{out}: torch, float32, {megabytes:,.1f} MB, of {step}")
        print(f"  {', '.join(torch_folder.FILES)}; README.md says how to use them")
        return
    about = description(trained, precision)
    if form == "stablehlo":
        content = to_stablehlo(trained)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        with whole(Path(f"{out}.json"), replace=overwrite) as file:
            file.write(text.encode())
    else:
        pixels = calibration_pixels(trained, calibration) if precision == "int8" else None
        content = to_onnx(trained, precision, pixels).SerializeToString()
    with whole(out, replace=overwrite) as file:
        file.write(content)
    size = f"{len(content) / 1e6:,.1f} MB"
    print(f"{out}: {form}, {precision}, {size}, of step {trained.step:,} of {workdir}")
    for put in ("input", "preprocessing", "output"):
        print(f"  {put:<15}{about[put]}")
    where = f"{out}.json" if form == "stablehlo" else "its metadata"
    print(f"  {'classes':<15}{len(trained.classes):,}, named in {where}")


def written(out: Path, form: str) -> tuple[Path, ...]:
    """The files that an export makes; the last one says who made it (of a folder, each)."""
    if form == "torch":
        from alexnet_jax.exchange import torch_folder

        return tuple(out / name for name in torch_folder.FILES)
    return (out, Path(f"{out}.json")) if form == "stablehlo" else (out,)


def description(trained: "TrainedNetwork", precision: str = "float32") -> dict[str, Any]:
    """What goes in, what comes out and where it is from; can be written as JSON."""
    crop, size, classes = trained.viewer.crop, trained.size, len(trained.classes)
    return {
        "input": f"pixels, uint8 (N, {crop}, {crop}, 3), RGB, 0 to 255, any N",
        "preprocessing": "upright, over white where transparent; shorter side to "
        f"{size} pixels (averages of areas to "
        f"shrink, cubic to enlarge), central {size}x{size}, of that the "
        f"central {crop}x{crop}; 0 to 255 as they are",
        "output": f"logits and probabilities, float32 (N, {classes})",
        "resize": size,
        "crop": crop,
        "classes": trained.classes,
        "class_names": trained.class_names,
        "precision": precision,
        "step": trained.step,
        "made_by": f"alexnet_jax {__version__}",
    }


def to_stablehlo(trained: "TrainedNetwork") -> bytes:
    """The network with its weights, for `jax.export.deserialize(bytearray(...))`.

    Its `call` goes from pixels to a dictionary of logits and probabilities, for any number of
    images; jit compiles it once for each. Made of the plain operators, with float32 products, for
    one device of `PLATFORMS`. jax promises to read it for six months.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    from alexnet_jax.model import AlexNet, make_mesh

    variables, mean = _arrays(trained)
    model = AlexNet(trained.viewer.model.network, make_mesh(1, 1, devices=jax.devices()[:1]))

    def look(pixels: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("float32"):
            logits: Any = model.apply(variables, pixels.astype(jnp.float32) - mean)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits)}

    # With a number of images that is not known, the network takes no form that is for a CPU alone
    # (`model.cpu.portions`).
    shape = export.symbolic_shape(f"N, {mean.shape[0]}, {mean.shape[1]}, 3")
    exported = export.export(jax.jit(look), platforms=PLATFORMS)
    return bytes(exported(jax.ShapeDtypeStruct(shape, jnp.uint8)).serialize())


def to_onnx(
    trained: "TrainedNetwork", precision: str = "float32", pixels: "np.ndarray | None" = None
) -> "onnx.ModelProto":
    """The network with its weights as an ONNX model, `description` among its metadata.

    Args:
        trained: the network.
        precision: one of `PRECISIONS`, see `to_onnx`.
        pixels: for int8, calibration images, uint8 (N, C, C, 3).

    Raises:
        ValueError: there is no such precision, or int8 is not given pixels.
    """
    if precision not in PRECISIONS or (precision == "int8" and pixels is None):
        raise ValueError(f"{precision}: one of {', '.join(PRECISIONS)}; int8 needs pixels")
    from onnx import helper

    from alexnet_jax.exchange import to_onnx

    network, half = trained.viewer.model.network, precision == "float16"
    model = to_onnx.network_graph(network, *_arrays(trained), half=half)
    if precision == "int8" and pixels is not None:
        model = to_onnx.quantised(model, _batches(pixels))
    about = description(trained, precision)
    model.producer_name, model.producer_version = "alexnet_jax", __version__
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    helper.set_model_props(model, texts)
    return model


def calibration_pixels(
    trained: "TrainedNetwork", calibration: Calibration | None = None
) -> "np.ndarray":
    """Images from all over the training split, or from all over some files, the central crop of
    each: (N, C, C, 3).

    Raises:
        UserError: the dataset of the run is not there, or no file can be used.
    """
    import numpy as np

    calibration = calibration or Calibration()
    images = _images_of_files(trained, calibration.files) or _images_of_dataset(
        trained, calibration
    )
    chosen = _spread(len(images))
    return central(np.stack([images[i] for i in chosen]), trained.viewer.crop)


def _spread(count: int) -> list[int]:
    """Numbers from 0 to the last of so many images, as many as calibration takes."""
    import numpy as np

    return np.linspace(0, count - 1, min(CALIBRATION, count)).astype(int).tolist()


def _images_of_dataset(trained: "TrainedNetwork", calibration: Calibration) -> Any:
    """The training split: of a cache, or one that decodes what it is asked for."""
    from alexnet_jax.data import decoding, sources
    from alexnet_jax.data.dataset import ensure_cache

    data = trained.config.data
    path, directory = calibration.cache or data.cache, calibration.data_dir or data.dir
    try:
        if path == "none":  # opening it would look at thousands of images, for its statistics
            split = sources.open_source(data.source, directory).splits[data.train]
            return [decoding.load(split[i].content, trained.size) for i in _spread(len(split))]
        holdout = 0.0 if calibration.cache else data.holdout
        cache = ensure_cache(data.source, data.size, directory, holdout, path)
    except (UserError, OSError, decoding.BadImage) as error:
        raise UserError(
            f"int8 is calibrated with images, and those of the run are not there ({error}): give "
            "--cache=DIR, made by alexnet_jax.prepare, or image files and folders"
        ) from error
    return cache.images[data.train]


def _images_of_files(trained: "TrainedNetwork", paths: Sequence[str]) -> "list[np.ndarray]":
    """Those of the files, and of the files in the folders, that can be used; the others are named.

    Raises:
        UserError: files were named, and none can be used.
    """
    from alexnet_jax.data import photos

    files, problems = photos.find_images(paths)
    files = [files[i] for i in _spread(len(files))] if files else []
    images: list[Any] = []
    for batch in photos.read_images(files, trained.size, AT_ONCE):
        for file, found in batch:
            if isinstance(found, str):
                problems[file] = found
            else:
                images.append(found)
    for file, problem in problems.items():
        print(f"skipped {photos.printable(file)}: {problem}", file=sys.stderr)
    if paths and not images:
        raise UserError("none of the files to calibrate with can be used")
    return images


def central(images: "np.ndarray", crop: int) -> "np.ndarray":
    """The central crop of images (N, S, S, 3), as exported networks want it."""
    start = (images.shape[1] - crop) // 2
    return images[:, start : start + crop, start : start + crop]


def _arrays(trained: "TrainedNetwork") -> tuple[Any, "np.ndarray"]:
    """Returns the variables, and the mean image under the central crop, (C, C, 3), on the host."""
    import jax
    import numpy as np

    from alexnet_jax.evaluation import views

    mean = views.centre(trained.viewer.mean_image, trained.viewer.crop)
    return jax.device_get(trained.variables), np.asarray(mean)


def _batches(pixels: "np.ndarray") -> Iterator["np.ndarray"]:
    for start in range(0, len(pixels), AT_ONCE):
        yield pixels[start : start + AT_ONCE]


def _require(form: str, *packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            broken = (
                "" if isinstance(error, ModuleNotFoundError) else f", which is broken ({error})"
            )
            raise UserError(
                f"--format={form} needs the package {package}{broken}: pip install -e '.[export]'"
            ) from error
