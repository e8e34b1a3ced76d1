"""This package's stream: from the cache, and from the JPEG files without one."""

import mmap
import os
import threading
from collections.abc import Callable
from typing import Any

import grain

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.stream import training_stream
from experiments.input.material import SEED, Material
from experiments.shared.timing import Reading, Stopwatch, Variant


def variants(material: Material) -> list[Variant]:
    """With lighting on the host or the device, from a disk, and with no cache."""
    group, threads = "this package's stream", material.threads

    def streaming(cache: Cache, **options: Any) -> grain.IterDataset:
        return training_stream(
            cache, batch_size=material.batch_size, crop=material.crop, seed=SEED, **options
        )

    cached = [
        Variant(
            f"stream_{where}",
            group,
            f"from the cache, lighting on the {where}",
            reading_batches(streaming(material.cache, lighting_on=where), material),
            material.batch_size,
        )
        for where in ("host", "device")
    ]
    undecoded = Variant(
        "stream_undecoded",
        group,
        f"from the JPEG files, no cache, {threads} threads",
        # Each thread makes a whole batch. They start together, so they are counted in whole turns.
        reading_batches(streaming(material.decoding, threads=threads), material, 2 * threads),
        material.batch_size * threads,
    )
    if not hasattr(os, "posix_fadvise"):  # macOS has no such call
        return [*cached, undecoded]
    epoch = len(material.paths) // material.batch_size
    from_disk = Variant(
        "stream_from_disk",
        group,
        "from the cache, which is not in memory",
        reading_from_disk(streaming(material.cache), material, epoch),
        material.batch_size * epoch,
    )
    return [*cached, from_disk, undecoded]


def reading_from_disk(
    dataset: grain.IterDataset, material: Material, epoch: int
) -> Callable[[int], Reading]:
    """A `Variant.run` that takes epochs, each after the system was told to forget the images."""

    def forget() -> None:
        material.cache.images["train"].base.madvise(mmap.MADV_DONTNEED)  # or it is kept
        file = os.open(os.path.join(material.cache.path, "train.images.npy"), os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)

    def run(count: int) -> Reading:
        read = reading_batches(dataset, material, warm_up=0)
        taken = []
        for _ in range(count // (epoch * material.batch_size)):
            forget()
            taken.append(read(epoch * material.batch_size))
        return Reading(*map(sum, zip(*taken)))

    return run


def reading_batches(
    dataset: grain.IterDataset, material: Material, warm_up: int = 8
) -> Callable[[int], Reading]:
    """A `Variant.run` that takes batches from a grain dataset, which any package may have made.

    The clock starts after `warm_up` batches: as much is read ahead then as when it stops.
    """

    def run(count: int) -> Reading:
        iterator = iter(dataset)
        for _ in range(warm_up):
            material.expect(next(iterator)["image"])
        stopwatch = Stopwatch()
        for _ in range(count // material.batch_size):
            next(iterator)
        reading = stopwatch.read(count)
        iterator.close()
        for thread in threading.enumerate():  # they end with what they are at; not in others' time
            if thread.name.startswith("grain"):
                thread.join()
        return reading

    return run
