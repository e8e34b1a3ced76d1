"""What this machine can do at best: copying, decoding, shuffling; and preparation beside them."""

import dataclasses
import io
import math
import shutil
from collections.abc import Callable
from concurrent import futures
from typing import Any

import cv2
import grain
import numpy as np
from PIL import Image

from alexnet_jax.data import decoding
from alexnet_jax.data.cache.building import make_cache
from alexnet_jax.data.sources.record import Record, Split
from experiments.input.material import PREPARING_LONGER, SEED, SIZE, Material
from experiments.shared import timing
from experiments.shared.timing import Reading, Stopwatch, Variant

IMAGENET = 1_281_167  # training images of 2012
CHUNK = 16  # images that a thread decodes at a time


def variants(material: Material) -> list[Variant]:
    """One thread first, then all of them."""
    return [*one_thread(material), *preparing(material)]


# --- one thread -----------------------------------------------------------------------------------


def one_thread(material: Material) -> list[Variant]:
    """What one thread could do at best."""
    group, contents = "limits, 1 thread", material.contents

    def variant(key: str, name: str, work: Callable[[bytes], Any]) -> Variant:
        run = timing.repeat(lambda number: work(contents[number % len(contents)]))
        return Variant(key, group, name, run, CHUNK)

    def order(key: str, total: int, name: str) -> Variant:
        indices = grain.MapDataset.range(total).seed(SEED).shuffle().repeat()
        run = timing.repeat(lambda number: indices[number])
        return Variant(key, group, f"shuffling {name}, grain", run, CHUNK)

    return [
        order("shuffle", len(contents), f"{len(contents):,} images"),
        order("shuffle_imagenet", IMAGENET, f"{IMAGENET:,} images"),
        Variant(
            "copy", group, "memory copy of as many bytes", copying(material), material.batch_size
        ),
        variant("decode_opencv", "decoding a JPEG, OpenCV", decoded),
        variant("decode_pillow", "decoding a JPEG, Pillow", decoded_by_pillow),
        variant("fit_opencv", "decoding and resizing, OpenCV", fitted),
        variant("fit_package", "decoding and resizing, this package", loaded),
    ]


def copying(material: Material) -> Callable[[int], Reading]:
    """A `Variant.run` that copies as many bytes as batches have."""
    block = material.batch_size * material.crop**2 * 3
    pixels = np.asarray(material.cache.images["train"]).reshape(-1)
    target = np.empty(block, np.uint8)
    blocks = len(pixels) // block

    def run(count: int) -> Reading:
        stopwatch = Stopwatch()
        for number in range(count // material.batch_size):
            start = number % blocks * block
            np.copyto(target, pixels[start : start + block])
        return stopwatch.read(count)

    return run


def decoded(content: bytes) -> np.ndarray:
    """OpenCV's decoder, nothing else."""
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


def decoded_by_pillow(content: bytes) -> Image.Image:
    """Pillow's decoder, nothing else."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def fitted(content: bytes) -> np.ndarray:
    """Decoding and the paper's rescaling with nothing around them: no checks, no colour modes."""
    image = decoded(content)
    height, width = image.shape[:2]
    scale = SIZE / min(height, width)
    height, width = math.floor(scale * height + 0.5), math.floor(scale * width + 0.5)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    return image[top : top + SIZE, left : left + SIZE]


def loaded(content: bytes) -> np.ndarray:
    """The package's own way from a file's bytes to the cached pixels."""
    return decoding.load(content, SIZE)


# --- all threads ----------------------------------------------------------------------------------


def preparing(material: Material) -> list[Variant]:
    """Making the cache, and what it could be at best, on as many threads."""
    count, threads = len(material.contents), material.threads
    group = f"making the cache, {threads} threads"
    bare = material.folder / "bare"

    def decoding(work: Callable[[bytes], Any]) -> Callable[[int], Reading]:
        def chunk(start: int) -> None:
            for number in range(start, start + CHUNK):
                work(material.contents[number % count])

        return in_chunks(chunk)

    def with_files(start: int) -> None:
        with (bare / f"{start}").open("wb", buffering=0) as out:
            for number in range(start, start + CHUNK):
                out.write(np.ascontiguousarray(fitted(material.paths[number % count].read_bytes())))

    def in_chunks(chunk: Callable[[int], None]) -> Callable[[int], Reading]:
        def run(images: int) -> Reading:
            bare.mkdir()
            stopwatch = Stopwatch()
            with futures.ThreadPoolExecutor(threads) as pool:
                list(pool.map(chunk, range(0, images, CHUNK)))
            reading = stopwatch.read(images)
            shutil.rmtree(bare)
            return reading

        return run

    def variant(
        key: str, name: str, run: Callable[[int], Reading], step: int, longer: float = 1
    ) -> Variant:
        return Variant(key, group, name, run, step, longer)

    ours, opencv = "decoding and resizing, this package", "decoding and resizing, OpenCV"
    files, step = "the same, with files read and written", CHUNK * threads
    return [
        variant("prepare", "preparation, all of it", making(material), count, PREPARING_LONGER),
        variant("fit_package_all", ours, decoding(loaded), step),
        variant("fit_opencv_all", opencv, decoding(fitted), step),
        variant("files_opencv_all", files, in_chunks(with_files), step, PREPARING_LONGER),
    ]


def making(material: Material) -> Callable[[int], Reading]:
    """A `Variant.run` that prepares a cache."""
    source, path = material.source, material.folder / "again"

    def run(images: int) -> Reading:
        split = {"train": Repeated(source.splits["train"], images)}
        stopwatch = Stopwatch()
        make_cache(dataclasses.replace(source, splits=split), SIZE, str(path))
        reading = stopwatch.read(images)
        shutil.rmtree(path)
        return reading

    return run


class Repeated:
    """The same records over and over: a preparation of millions is not all start and end."""

    def __init__(self, split: Split, count: int) -> None:
        self._split = split
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        return self._split[index % len(self._split)]
