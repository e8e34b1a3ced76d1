"""Prepares a dataset as `alexnet_jax.prepare` was asked to, and says what came out."""

import contextlib
import csv
import os
import re
import shlex
import time
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.data import sources
from alexnet_jax.data.cache import building, estimate, journal, places, store
from alexnet_jax.data.cache.request import Request, prepare_command
from alexnet_jax.data.cache.splits import check_text, number
from alexnet_jax.data.cache.store import Cache, open_cache, partial_path
from alexnet_jax.errors import UserError


def prepare(
    spec: str,
    out: str,
    *,
    size: int = 256,
    holdout: float = 0,
    workers: int | None = None,
    on_bad_image: building.OnBadImage = "fail",
    overwrite: bool = False,
    data_dir: str | None = None,
) -> None:
    """Makes the cache of a source, or resumes that, and says what came out.

    Args:
        spec: the data source, see `sources`.
        out: the cache's directory.
        size, holdout, workers, on_bad_image, overwrite: see `building.make_cache`.
        data_dir: TFDS's directory, or None for its default.

    Raises:
        UserError: see `building.make_cache`.
    """
    with _own_flags():
        check_text("the data source", spec)
        source = sources.open_source(spec, data_dir)
        request = Request(source, size, out, holdout, data_dir)
        request.check()
        splits = ", ".join(f"{name} {len(images):,}" for name, (_, images) in request.plan.items())
        print(f"{source.name}: {len(source.class_names):,} classes; {splits}")
        if source.left_out:
            print(source.left_out)
        if places.is_made(request, overwrite):
            print("It is complete already; without --source it is verified.")
            report(open_cache(out))
            return
        cost = estimate.estimate(source, size, workers)
        partial = partial_path(out)
        goes_on = os.path.isfile(os.path.join(partial, journal.RECORD))
        print(f"{cost}{', less what is in ' + partial if goes_on else ''}", flush=True)
        start = time.perf_counter()
        cache = building.make_cache(
            source,
            size,
            out,
            holdout,
            workers,
            on_bad_image,
            overwrite=overwrite,
            data_dir=data_dir,
        )
        print(f"done in {time.perf_counter() - start:,.0f} s")
        report(cache)


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Messages name fields of the configuration; here they are flags of this command."""
    try:
        yield
    except UserError as error:
        field = r"(?<![\w/.-])(?:--)?(?:config\.)?data\.(?:(dir)|(source|size|holdout))\b"
        text = re.sub(field, lambda found: f"--{found[2] or 'data_dir'}", str(error))
        raise type(error)(text) from error


# --- what to do with it ---------------------------------------------------------------------------


class _Configuration(NamedTuple):
    """What a configuration of `alexnet_jax.configs` has if nothing is set."""

    name: str
    input_size: int  # the side of what its network looks at, in pixels
    size: int
    classes: int
    validation: str
    test: str
    batch_size: int


CONFIGURATIONS = (
    _Configuration("imagenet", 224, 256, 1000, "validation", "validation", 128),
    _Configuration("embedded", 112, 128, 20, "validation", "test", 64),
    _Configuration("fashion_mnist", 28, 30, 10, "", "test", 128),
)
CIFAR10 = _Configuration("cifar10:80sec", 32, 32, 10, "", "test", 128)
SMALLEST = 15  # pixels that the last one's three poolings leave something of


def report(cache: Cache) -> None:
    """What is in the cache, and what to do with it."""
    print(f"\n{cache.path}, fingerprint {cache.fingerprint}")
    for split, images in cache.images.items():
        print(f"  {split:<11}{len(images):>10,} images of {cache.size}x{cache.size}")
    skipped_file = os.path.join(cache.path, "skipped.csv")
    with open(skipped_file, encoding="utf-8", errors="surrogateescape", newline="") as file:
        skipped = list(csv.reader(file))[1:]
    if skipped:
        print(f"  {'left out':<11}{len(skipped):>10,} images, with the reasons in {skipped_file}:")
        for split, name, reason in skipped[:5]:
            print(f"    {split} {name}: {reason}")
        if len(skipped) > 5:
            print("    ...")
    deviations = ", ".join(f"{value**0.5:.2f}" for value in cache.eigenvalues[::-1])
    print(f"  standard deviations of the colours along their components: {deviations} grey levels")
    if cache.size < SMALLEST:
        print(f"\nToo small to train on: prepare images of {SMALLEST} pixels or more (--size).")
        return
    if set(cache.images) == {"train"} and len(cache.images["train"]) > 1:
        print(
            "\nNothing is kept to test on. To set a tenth of the images aside for that:\n\n    "
            f"{_holdout_command(cache)}\n\nTo train from it as it is, where what is called the "
            f"test is on the training images:\n\n    {training_command(cache)}"
        )
    else:
        print(f"\nTo train from it:\n\n    {training_command(cache)}")
    print(
        f"\nTo fine-tune W, a run or converted weights, that looks at {cache.size} pixels or fewer:"
        f"\n\n    {finetuning_command(cache)}"
    )


def training_command(cache: Cache) -> str:
    """Returns a command that trains from a cache; its configuration is one for that image size."""
    count = len(cache.images["train"])
    suited = next(
        (known for known in CONFIGURATIONS if known.input_size <= cache.size), CONFIGURATIONS[-1]
    )
    if cache.size == CIFAR10.size and re.match(r"(tfds:)?cifar10\b", cache.name):
        suited = CIFAR10
    validation = "validation" if "validation" in cache.images else ""
    test = "test" if "test" in cache.images else validation or "train"
    batch_size = min(suited.batch_size, 1 << (count.bit_length() - 1))
    fields = {
        "data.size": (cache.size, suited.size),
        "model.input_size": (min(cache.size, suited.input_size), suited.input_size),
        "model.classes": (len(cache.class_names), suited.classes),
        "data.validation": (validation, suited.validation),
        "data.test": (test, suited.test),
        "batch_size": (batch_size, suited.batch_size),
    }
    flags = [f"--config={suited.name}", f"--config.data.cache={cache.path}"]
    flags += [
        f"--config.{field}={value}" for field, (value, given) in fields.items() if value != given
    ]
    if batch_size < suited.batch_size:  # too small a batch, perhaps, to share among many devices
        flags.append("--config.mesh.data=1")
    return f"python -m alexnet_jax.main --workdir=W {shlex.join(flags)}"


def finetuning_command(cache: Cache) -> str:
    """Returns a command that fine-tunes the network W on a cache."""
    flags = ["--config=finetune", "--config.init_from=W", f"--config.data.cache={cache.path}"]
    return f"python -m alexnet_jax.main --workdir=W2 {shlex.join(flags)}"


def _holdout_command(cache: Cache) -> str:
    meta = store.read_meta(cache.path) or {}
    source, origin = meta["settings"]["source"], meta.get("origin", {})
    held_out = max(1, len(cache.images["train"]) // 10)
    path = f"{cache.path}-holdout{held_out}"
    return prepare_command(source, cache.size, path, held_out, origin.get("data_dir"))


def verify(out: str, size: int | None = None, holdout: float | None = None) -> None:
    """Reads the cache and compares it with its checksums.

    Args:
        out: the cache's directory.
        size, holdout: what it has to be of, if given.

    Raises:
        UserError: it is damaged, or another.
    """
    cache = open_cache(out)
    made = (store.read_meta(out) or {}).get("settings", {})
    if size is not None and size != cache.size:
        raise UserError(
            f"--size={size}: {out} holds images of {cache.size} pixels; to make another cache, "
            "give its --source and another --out"
        )
    if holdout is not None and holdout != made.get("holdout", holdout):
        raise UserError(
            f"--holdout={number(holdout)}: {out} was made with --holdout={number(made['holdout'])};"
            " to make another cache, give its --source and another --out"
        )
    store.verify(cache)
    total = sum(len(images) for images in cache.images.values())
    print(f"{out}: all {total:,} images are as they were written ({cache.fingerprint})")
