"""A trained network for other programs: StableHLO, or ONNX in three precisions."""

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import __version__
from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from alexnet_jax.evaluation.trained_network import TrainedNetwork


# The packages that each needs, beyond those that training does.
NEEDS = {"stablehlo": ("flatbuffers",), "onnx": ("onnx", "onnxruntime")}


PRECISIONS = ("float32", "float16", "int8")


PLATFORMS = ("cpu", "cuda", "tpu")


CALIBRATION = 256  # images of the training split that say how large activations become


AT_ONCE = 32  # of these


def export(
    workdir: Path, out: Path, form: str, *, precision: str = "float32", best: bool = False
) -> None:
    """Writes the network of a run, and prints what was written.

    Args:
        workdir: of the run, or of converted weights.
        out: the file; with StableHLO its description is `out` with '.json' appended.
        form: 'stablehlo' or 'onnx'.
        precision: 'float32'; of ONNX also 'float16' or 'int8'.
        best: the checkpoint with the lowest validation error instead of the last.

    Raises:
        UserError: the form has no such precision, `out` is there already, a package is missing,
            there is no such run, or its dataset is wanted and not there.
    """
    from alexnet_jax.settings import ConfigError

    if form == "stablehlo" and precision != "float32":
        raise ConfigError(f"--precision={precision} is for --format=onnx; StableHLO is float32")
    if out.exists():
        raise UserError(f"{out} is there already: remove it, or give another --out")
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: there is no directory {out.parent}")
    _require(form)
    import jax

    from alexnet_jax import load
    from alexnet_jax.model import make_mesh

    trained = load(workdir, best=best, mesh=make_mesh(1, 1, devices=jax.devices()[:1]))
    about = description(trained, precision)
    if form == "stablehlo":
        content = to_stablehlo(trained)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        Path(f"{out}.json").write_text(text, encoding="utf-8")
    else:
        pixels = calibration_pixels(trained) if precision == "int8" else None
        content = to_onnx(trained, precision, pixels).SerializeToString()
    partial = Path(f"{out}.partial")
    partial.write_bytes(content)
    os.replace(partial, out)
    size = f"{len(content) / 1e6:,.1f} MB"
    print(f"{out}: {form}, {precision}, {size}, of step {trained.step:,} of {workdir}")
    for put in ("input", "preprocessing", "output"):
        print(f"  {put:<15}{about[put]}")
    where = f"{out}.json" if form == "stablehlo" else "its metadata"
    print(f"  {'classes':<15}{len(trained.classes):,}, named in {where}")


def description(trained: "TrainedNetwork", precision: str = "float32") -> dict[str, Any]:
    """What goes in, what comes out and where it is from; can be written as JSON."""
    crop, size, classes = trained.viewer.crop, trained.size, len(trained.classes)
    return {
        "input": f"pixels, uint8 (N, {crop}, {crop}, 3), RGB, 0 to 255, any N",
        "preprocessing": f"shorter side to {size} pixels, central {size}x{size}, of that the "
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


def calibration_pixels(trained: "TrainedNetwork") -> "np.ndarray":
    """Images from all over the run's training split, the central crop of each: (N, C, C, 3).

    Raises:
        UserError: the dataset of the run is not there.
    """
    import numpy as np

    from alexnet_jax.data.dataset import ensure_cache

    data = trained.config.data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    images = cache.images[data.train]
    count = min(CALIBRATION, len(images))
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    return central(np.stack([images[int(i)] for i in chosen]), trained.viewer.crop)


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


def _require(form: str) -> None:
    for package in NEEDS[form]:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(
                f"--format={form} needs the package {package}: pip install -e '.[export]'"
            ) from error
