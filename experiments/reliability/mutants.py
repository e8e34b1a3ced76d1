"""Files that are damaged at random, and configurations that are drawn at random, many in a process.

    python -m experiments.reliability.mutants KIND SEED COUNT

Prints a line for every mutant that came to another end than the ones that are allowed: an image is
decoded or refused by `BadImage`, weights are read or refused by `UserError`, a configuration is
refused by `UserError` or its first step can be traced. The last line says how many did which.
"""

import io
import itertools
import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Mutant = tuple[str, Callable[[], object]]  # a name, and what has to come to an allowed end

WIDTHS = (8, 12, 16, 12, 8, 32, 24, 10)  # of the small networks whose weights are damaged
OF_TORCH = (".safetensors", ".pth", ".pt")
SIDE = 64  # of a cached image, in pixels


# --- damage ---------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy with one to three faults: bytes changed, cut off, left out, inserted or repeated."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content)) if content else 0
        length = min(len(content) - at, int(2 ** rng.uniform(0, 12)))
        match rng.randrange(7):
            case 0:
                content[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del content[at:]
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = rng.randbytes(length)
            case 4:
                content[at:at] = content[at : at + length]
            case 5:  # a number of a header
                word = rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
                start = rng.randrange(min(128, len(content) + 1))
                content[start : start + 4] = word.to_bytes(4, rng.choice(["little", "big"]))
            case _:
                for _ in range(rng.randint(2, 40)):
                    if content:
                        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


# --- images ---------------------------------------------------------------------------------------


def encoded_images() -> list[tuple[str, bytes]]:
    """One picture in every form that is read."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("JPEG", "RGB", {"quality": 90}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "P", "L", "LA", "I;16", "1")),
        *((form, "RGB", {}) for form in ("BMP", "GIF", "WEBP", "TIFF", "PPM")),
        ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ]
    found = []
    for form, mode, options in forms:
        file = io.BytesIO()
        source = picture.convert("L").convert("I") if mode == "I;16" else picture
        source.convert("I;16" if mode == "I;16" else mode).save(file, form, **options)
        found.append((f"{form} {mode}", file.getvalue()))
    return found


def images(seed: int) -> Iterator[Mutant]:
    """Damaged images, decoded and fitted as for a cache."""
    from alexnet_jax.data import decoding

    originals = encoded_images()

    def decode(content: bytes) -> None:
        try:
            found = decoding.load(content, SIDE)
        except decoding.BadImage as error:
            raise Refused(str(error)) from error
        if found.dtype != np.uint8 or found.shape != (SIDE, SIDE, 3):
            raise AssertionError(f"an image of {found.dtype} {found.shape}")

    for number in itertools.count(seed):
        rng = random.Random(f"image {number}")
        form, data = originals[number % len(originals)]
        content = damaged(data, rng)
        yield f"image {number} ({form})", lambda content=content: decode(content)


# --- weights --------------------------------------------------------------------------------------


def torchvision_arrays() -> dict[str, np.ndarray]:
    """A state dict in the shapes of torchvision's alexnet, narrower."""
    rng = np.random.default_rng(0)
    c1, c2, c3, c4, c5, f6, f7, classes = WIDTHS
    shapes = {
        "features.0": (c1, 3, 11, 11),
        "features.3": (c2, c1, 5, 5),
        "features.6": (c3, c2, 3, 3),
        "features.8": (c4, c3, 3, 3),
        "features.10": (c5, c4, 3, 3),
        "classifier.1": (f6, c5 * 36),
        "classifier.4": (f7, f6),
        "classifier.6": (classes, f7),
    }
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = rng.normal(0, 0.05, shape).astype(np.float32)
        found[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return found


def caffe_graph() -> bytes:
    """An ONNX graph in the form of the BVLC AlexNet, narrower."""
    import onnx
    from onnx import helper, numpy_helper

    c1, c2, c3, c4, c5, f6, f7, classes = WIDTHS
    rng = np.random.default_rng(0)
    nodes, arrays, last = [], [], "data"

    def node(kind: str, *more: np.ndarray, **attributes: Any) -> None:
        nonlocal last
        names = [f"n{len(nodes)}_{i}" for i in range(len(more))]
        arrays.extend(numpy_helper.from_array(a, n) for a, n in zip(more, names, strict=True))
        nodes.append(helper.make_node(kind, [last, *names], [f"n{len(nodes)}"], **attributes))
        last = f"n{len(nodes) - 1}"

    def weights(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        kernel = rng.normal(0, 0.05, shape).astype(np.float32)
        return kernel, np.zeros(shape[0], np.float32)

    def convolution(shape: tuple[int, ...], stride: int, pad: int, group: int) -> None:
        side, strides, pads = shape[-1], [stride] * 2, [pad] * 4
        shapes = {"kernel_shape": [side] * 2, "strides": strides, "pads": pads, "group": group}
        node("Conv", *weights(*shape), **shapes)
        node("Relu")

    def norm_and_pool(*, norm: bool = True) -> None:
        if norm:
            node("LRN", size=5, alpha=1e-4, beta=0.75, bias=1.0)
        node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4)

    convolution((c1, 3, 11, 11), 4, 0, 1)
    norm_and_pool()
    convolution((c2, c1 // 2, 5, 5), 1, 2, 2)
    norm_and_pool()
    convolution((c3, c2, 3, 3), 1, 1, 1)
    convolution((c4, c3 // 2, 3, 3), 1, 1, 2)
    convolution((c5, c4 // 2, 3, 3), 1, 1, 2)
    norm_and_pool(norm=False)
    node("Flatten")
    for shape in ((f6, c5 * 36), (f7, f6)):
        node("Gemm", *weights(*shape), transB=1)
        node("Relu")
    node("Gemm", *weights(classes, f7), transB=1)
    node("Softmax", axis=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "alexnet",
        [value("data", onnx.TensorProto.FLOAT, [1, 3, 227, 227])],
        [value(last, onnx.TensorProto.FLOAT, [1, classes])],
        arrays,
    )
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def bvlc_arrays() -> dict[str, list[np.ndarray]]:
    """[kernel, bias] of each layer of BVLC's AlexNet as caffe-tensorflow has them, narrower."""
    rng = np.random.default_rng(0)
    c1, c2, c3, c4, c5, f6, f7, classes = WIDTHS
    shapes = {
        "conv1": (11, 11, 3, c1),
        "conv2": (5, 5, c1 // 2, c2),
        "conv3": (3, 3, c2, c3),
        "conv4": (3, 3, c3 // 2, c4),
        "conv5": (3, 3, c4 // 2, c5),
        "fc6": (c5 * 36, f6),
        "fc7": (f6, f7),
        "fc8": (f7, classes),
    }
    return {
        name: [rng.normal(0, 0.05, shape).astype(np.float32), np.zeros(shape[-1], np.float32)]
        for name, shape in shapes.items()
    }


def caffemodel() -> bytes:
    """The same as Caffe keeps it."""
    from alexnet_jax.exchange.caffe_messages import classes

    net: Any = classes()["NetParameter"]()
    data = net.layer.add(name="data", type="Input", top=["data"])
    data.input_param.shape.add(dim=[1, 3, 227, 227])
    last = "data"

    def add(kind: str, name: str) -> Any:
        nonlocal last
        layer = net.layer.add(name=name, type=kind, bottom=[last], top=[name])
        last = name
        return layer

    geometry = {"conv1": (4, 0, 1), "conv2": (1, 2, 2), "conv3": (1, 1, 1)}
    for name, arrays in bvlc_arrays().items():
        kernel, bias = arrays
        layer = add("Convolution" if kernel.ndim == 4 else "InnerProduct", name)
        if kernel.ndim == 4:
            stride, pad, group = geometry.get(name, (1, 1, 2))
            says = layer.convolution_param
            says.num_output, says.group = len(bias), group
            says.kernel_size.append(len(kernel))
            says.stride.append(stride)
            says.pad.append(pad)
        else:
            layer.inner_product_param.num_output = len(bias)
        stored = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        for array in (stored, bias):
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data = array.astype("<f4").tobytes()
        if name != "fc8":
            add("ReLU", f"{name} relu")
        if name in ("conv1", "conv2"):
            norm = add("LRN", f"{name} norm").lrn_param
            norm.local_size, norm.alpha, norm.beta = 5, 1e-4, 0.75
        if name in ("conv1", "conv2", "conv5"):
            pool = add("Pooling", f"{name} pool").pooling_param
            pool.kernel_size.append(3)
            pool.stride.append(2)
    return bytes(net.SerializeToString())


def weight_files() -> dict[str, bytes]:
    """The same small network's weights in every form that can be read here, by suffix."""
    from safetensors.numpy import save

    arrays = torchvision_arrays()
    by_numpy = io.BytesIO()
    np.save(by_numpy, np.array(bvlc_arrays(), object), allow_pickle=True)
    found = {
        ".safetensors": save(arrays),
        ".onnx": caffe_graph(),
        ".caffemodel": caffemodel(),
        ".npy": by_numpy.getvalue(),
    }
    try:
        import torch
    except ModuleNotFoundError:
        return found
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(tensors, zipped)
    torch.save({"state_dict": tensors}, old, _use_new_zipfile_serialization=False)
    return found | {".pth": zipped.getvalue(), ".pt": old.getvalue()}


def exported_folder(folder: Path) -> dict[str, bytes]:
    """What `export --format=torch` writes of such a network: the two files that are read again."""
    from safetensors.numpy import save_file

    from alexnet_jax import load
    from alexnet_jax.exchange import torch_folder
    from alexnet_jax.exchange.converting import convert

    save_file(torchvision_arrays(), folder / "a.safetensors")
    convert(folder / "a.safetensors", folder / "a", pixels="torchvision")
    torch_folder.write(load(folder / "a"), folder / "exported")
    files = (torch_folder.WEIGHTS, torch_folder.CONFIG)
    return {name: (folder / "exported" / name).read_bytes() for name in files}


def weights(seed: int) -> Iterator[Mutant]:
    """Damaged files of weights, converted."""
    from alexnet_jax.errors import UserError
    from alexnet_jax.exchange.converting import convert

    with tempfile.TemporaryDirectory() as folder:
        exported = exported_folder(Path(folder))
        originals = [*weight_files().items(), *exported.items()]

        def read(path: Path, out: Path, content: bytes) -> None:
            pixels: str | None = "torchvision" if path.suffix in OF_TORCH else "caffe"
            if path.name in exported:  # with the other file as it was
                for name, sound in exported.items():
                    (path.parent / name).write_bytes(sound)
                pixels = None
            path.write_bytes(content)
            try:
                convert(path.parent if path.name in exported else path, out, pixels=pixels)
            except (UserError, OSError) as error:
                if out.exists():
                    raise AssertionError("refused, and left a directory") from error
                raise Refused(str(error)) from error

        def place(stem: object, name: str) -> Path:
            if name not in exported:
                return Path(folder, f"{stem}{name}")
            return Path(folder, "exported", name)

        for name, data in originals:  # what is not damaged has to be read, or nothing is tested
            read(place("sound", name), Path(folder, f"sound{name}.run"), data)
        for number in itertools.count(seed):
            rng = random.Random(f"weights {number}")
            name, data = originals[number % len(originals)]
            path, out = place(number, name), Path(folder, f"{number}.run")
            content = damaged(data, rng)
            yield f"weights {number} ({name})", lambda p=path, o=out, c=content: read(p, o, c)
            path.unlink(missing_ok=True)


# --- configurations -------------------------------------------------------------------------------

NUMBERS = (0, 1, -1, 2, 3, 7, 1e-9, 0.5, 0.99, 1.0, 1.5, -0.01, 55, 100, 1e4, 2**31, 1e30)
WORDS = ("", "none", "plateau", "steps", "dexp", "relu", "tanh", "bfloat16", "float32", "no such")


def configurations(seed: int) -> Iterator[Mutant]:
    """A preset with one to four fields set to anything, checked and traced."""
    from alexnet_jax import settings
    from alexnet_jax.configs import base
    from alexnet_jax.errors import UserError

    plain = settings.flatten(base.get_config())

    def value(old: Any, rng: random.Random) -> Any:
        kinds = [*NUMBERS, *WORDS, True, False, float("nan"), float("inf"), (), (1, 2), old]
        if isinstance(old, bool) or rng.random() < 0.15:
            return rng.choice(kinds)
        match old:
            case int():
                return int(rng.choice(NUMBERS))
            case float():
                return float(rng.choice([*NUMBERS, old * rng.uniform(0, 3)]))
            case str():
                return rng.choice(WORDS)
            case tuple():
                return tuple(rng.choice(NUMBERS) for _ in range(rng.randint(0, 3)))
        return rng.choice(kinds)

    def checked(preset: str, assignments: list[str]) -> None:
        try:
            config = settings.override(base.get_config(preset), ["batch_size=8", *assignments])
            settings.check(config)
            trace(config)
        except UserError as error:
            raise Refused(str(error)) from error

    for number in itertools.count(seed):
        rng = random.Random(f"configuration {number}")
        preset = rng.choice(["paper", "source", "reconciled"])
        fields = rng.sample(sorted(plain), rng.randint(1, 4))
        assignments = [f"{field}={value(plain[field], rng)!r}" for field in fields]
        name = f"configuration {number} ({preset}: {', '.join(assignments)})"
        yield name, lambda p=preset, a=assignments: checked(p, a)


def trace(config: Any) -> None:
    """The shapes of a step and of an evaluation, without computing them."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax import settings
    from alexnet_jax.model import AlexNet, make_mesh
    from alexnet_jax.run.parts import check_batch
    from alexnet_jax.training.step import initial_state, make_train_step
    from alexnet_jax.training.update_rule import update_rule

    network = settings.network(config)
    mesh = make_mesh(1, 1)
    check_batch(config, mesh)
    model = AlexNet(network, mesh, jnp.dtype(config.dtype))
    rule = update_rule(config.optim, 1000, network.decays())
    state = jax.eval_shape(lambda: initial_state(model, rule, 0))
    size, count = network.input_size, config.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32),
        "shift": jax.ShapeDtypeStruct((count, 3), jnp.float32),
        "offset": jax.ShapeDtypeStruct((count, 3), jnp.int32),
    }
    wanted = {"image", "label"}
    wanted |= {"shift"} if config.data.lighting_on == "device" else set()
    wanted |= {"offset"} if config.data.mean == "aligned" else set()
    mean = np.zeros((config.data.size, config.data.size, 3), np.float32)
    step = make_train_step(model, rule, mean, config, 1000)
    jax.eval_shape(step, state, {name: batch[name] for name in wanted})


# --- many in a process ----------------------------------------------------------------------------


class Refused(Exception):
    """Refused with a reason."""


KINDS = {"images": images, "weights": weights, "configurations": configurations}


def main(kind: str, seed: str, count: str) -> None:
    """Tries so many mutants and prints what must not be, and the counts."""
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    for name, do in itertools.islice(KINDS[kind](int(seed)), int(count)):
        print(json.dumps({"now": name}), flush=True)  # so that a crash names what it was at
        try:
            do()
        except Refused as error:
            counts["refused" if str(error).strip() else "failed"] += 1
        except Exception as error:
            counts["failed"] += 1
            print(json.dumps({"failed": f"{name}: {type(error).__name__}: {error}"[:400]}))
        else:
            counts["accepted"] += 1
    print(json.dumps({"counts": counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
