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

from experiments.reliability.weight_files import exported_folder, weight_files

Mutant = tuple[str, Callable[[], object]]  # a name, and what has to come to an allowed end

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
