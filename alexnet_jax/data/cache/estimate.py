"""What a preparation takes: the space, the time, the cores."""

import contextlib
import shutil
import time
from concurrent import futures
from typing import NamedTuple

import cv2
import numpy as np

from alexnet_jax.data import decoding
from alexnet_jax.data.sources.record import Source
from alexnet_jax.data.threads import cores, one_opencv_thread
from alexnet_jax.errors import UserError


class Cost(NamedTuple):
    """What a preparation takes.

    Attributes:
        images: of all splits.
        bytes: on the disk.
        threads: that do the work.
        images_per_second: measured on a few dozen of them.
    """

    images: int
    bytes: int
    threads: int
    images_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.images:,} images, {_size(self.bytes)}, about "
            f"{_duration(self.images / self.images_per_second)} on {self.threads} "
            f"core{'s' * (self.threads > 1)}"
        )


def _duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count > 1e9 else f"{count / 1e6:,.1f} MB"


def footprint(source: Source, size: int) -> int:
    """Bytes of the source's cache."""
    return sum(len(split) for split in source.splits.values()) * size * size * 3


def estimate(source: Source, size: int, workers: int | None = None) -> Cost:
    """Measures a few images, spread over the training split."""
    split, threads = source.splits["train"], workers or cores()
    chosen = np.linspace(0, len(split) - 1, min(len(split), 32 * threads), dtype=int)

    def load(index: int) -> None:
        with contextlib.suppress(decoding.BadImage, OSError, MemoryError, cv2.error):
            decoding.load(split[index].content, size)

    with one_opencv_thread(), futures.ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(load, chosen.tolist()))
        seconds = time.perf_counter() - start
    count = sum(len(split) for split in source.splits.values())
    return Cost(count, footprint(source, size), threads, len(chosen) / seconds)


def check_disk(needed: int, directory: str) -> None:
    """Refuses what will not fit.

    Raises:
        UserError: says how much is needed, how much is there, and what else can be done.
    """
    free = shutil.disk_usage(directory).free
    if needed * 1.01 > free:  # a little over, for labels and the file system's own use
        raise UserError(
            f"the cache needs {_size(needed)} in {directory}, where {_size(free)} are "
            "free: choose a larger disk (--config.data.dir, or --out of alexnet_jax.prepare), or a "
            "smaller image size"
        )
