"""What all the ways to read images work on: JPEG files like ImageNet's, and a cache of them."""

import bisect
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from alexnet_jax.data.cache.building import make_cache
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.on_demand import open_undecoded
from alexnet_jax.data.sources import dead_leaves, open_source
from experiments.shared.command import say

SIZE = 256  # of the cached images
HEIGHT, WIDTH = 375, 500  # of the JPEG files, as most of ImageNet's
MOST_BYTES = 120_000  # of a JPEG file; at the next lower quality it has some 15% less
NOISE = (7.0, 13.0)  # standard deviations in grey levels; leaves alone would take 80 kB at most
CLASSES = 2  # a dataset needs two
SEED = 2012

# How many times as long as the others some rows run in a round, so that their start weighs less.
WORKERS_LONGER = 2.0  # starting the workers is in the time
PREPARING_LONGER = 4  # its start and end are long, and ImageNet takes an hour


@dataclasses.dataclass(frozen=True)
class Material:
    """The same images in every form.

    Attributes:
        folder: for files that go when all is done.
        paths: the JPEG files.
        labels: their classes.
        contents: their bytes.
        source: the same as a data source.
        cache: the same, prepared.
        decoding: the same, to be decoded on access.
        batch_size: images in a batch.
        crop: side of a crop.
        threads: the cores of this machine.
    """

    folder: Path
    paths: Sequence[Path]
    labels: Sequence[int]
    contents: Sequence[bytes]
    source: Any
    cache: Cache
    decoding: Cache
    batch_size: int
    crop: int
    threads: int

    def expect(self, batch: np.ndarray) -> None:
        """Checks that a batch is what every way has to give.

        Raises:
            ValueError: it has another shape or type.
        """
        shape = (self.batch_size, self.crop, self.crop, 3)
        if batch.shape != shape or batch.dtype != np.uint8:
            raise ValueError(f"{batch.dtype} {batch.shape} instead of uint8 {shape}")


def prepare(folder: Path, *, images: int, batch_size: int, crop: int, threads: int) -> Material:
    """Draws so many files into the folder, and opens them in every way."""
    say(f"drawing {images:,} JPEG files")
    for label in range(CLASSES):
        (folder / "jpegs" / "train" / f"{label}").mkdir(parents=True)
    labels = [index * CLASSES // images for index in range(images)]
    paths = [
        folder / "jpegs" / "train" / f"{label}" / f"{index:06}.jpg"
        for index, label in enumerate(labels)
    ]
    with futures.ThreadPoolExecutor(threads) as pool:
        contents = list(pool.map(draw, range(images)))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    say("preparing the cache")
    source = open_source(f"folder:{folder}/jpegs")
    cache = make_cache(source, SIZE, f"{folder}/cache")
    with contextlib.redirect_stdout(io.StringIO()):  # it says how slow it is going to be
        decoding = open_undecoded(source, SIZE)
    return Material(
        folder=folder,
        paths=paths,
        labels=labels,
        contents=contents,
        source=source,
        cache=cache,
        decoding=decoding,
        batch_size=batch_size,
        crop=crop,
        threads=threads,
    )


def draw(index: int) -> bytes:
    """A JPEG file: the background of the embedded dataset's pictures, and noise upon it."""
    rng = np.random.Generator(np.random.Philox(key=np.array([SEED, index], np.uint64)))
    scale = HEIGHT / dead_leaves.UNIT
    canvas = np.full((HEIGHT, WIDTH, 4), [90, 90, 90, 2 * dead_leaves.GRAIN], np.uint8)
    everywhere = np.array([[0, 0], [WIDTH, HEIGHT]], float)
    count = round(dead_leaves.LEAVES * WIDTH / HEIGHT)
    dead_leaves.draw_leaves(canvas, rng, everywhere, count, dead_leaves.LEAF_RADIUS, scale)
    noise = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH), np.float32), (0, 0), 0.7)
    noise *= rng.uniform(*NOISE) / noise.std()
    picture = np.clip(dead_leaves.light(canvas, rng, scale) + noise[..., None], 0, 255)
    picture = cv2.cvtColor(picture.astype(np.uint8), cv2.COLOR_RGB2BGR)

    def encode(quality: int) -> bytes:
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    too_large = bisect.bisect(range(101), MOST_BYTES, lo=50, key=lambda q: len(encode(q)))
    return encode(too_large - 1)
