"""Training batches by grain, and evaluation batches in which every example counts once.

The stream is grain over *batches*: the number of a batch goes in, and one map cuts all its crops
into one array. A map for each image takes three times as long at best, because of grain's own work
for each element (`experiments.input` measures it).

Batch k is a pure function of (seed, k): its place in the epochs says which images, and a Philox
generator with the key (seed, k) how they are cut. So a stream resumes exactly from the number k
alone, and several processes agree without talking.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any, Literal

import grain
import numpy as np

from alexnet_jax.data import augmentation
from alexnet_jax.data.cache.store import Cache, read_soon
from alexnet_jax.data.threads import cores
from alexnet_jax.errors import UserError

Batch = dict[str, np.ndarray]

AHEAD = 2  # batches that wait on the host, and as many on the devices


def training_stream(
    cache: Cache,
    *,
    batch_size: int,
    crop: int,
    seed: int,
    lighting: augmentation.Lighting = "sqrt",
    lighting_steps: int | None = None,
    lighting_on: Literal["host", "device"] = "host",
    last_offset: bool = True,
    flip: bool = True,
    crops: bool = True,
    with_offsets: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "train",
    threads: int = 0,
) -> grain.IterDataset:
    """An endless stream of augmented batches.

    Epochs follow each other without a gap: every image comes once in each run of len(split)
    examples, and a batch may hold the end of one epoch and the start of the next.

    Args:
        cache: the dataset.
        batch_size: B, over all processes.
        crop: side of the crops in pixels, at most `cache.size`.
        seed: 0 to 2**32 - 1; decides everything.
        lighting: how far PCA lighting goes, see `augmentation.lighting_shift`.
        lighting_steps: lighting stops at this step (the released run's last quarter had none);
            None for never.
        lighting_on: 'host' adds the rounded shift to the uint8 crops; 'device' leaves them and
            sends the shift along.
        last_offset: 33 crop positions a side as in the released code, not 32 as the paper counts.
        flip: mirror half of the images.
        crops: cut them anywhere, not always from the centre.
        with_offsets: yield the offsets too (for the mean under each crop, as the paper has it).
        process_index: which of the equal blocks of rows to cut, see `process_share`.
        process_count: how many such blocks the batch has.
        split: which split to train on.
        threads: threads that prepare batches; the stream is the same for any number. 0: one for
            arrays, more would only get in each other's way; all cores where images are decoded.

    Returns:
        A grain dataset of dicts: image uint8 (b, crop, crop, 3); label int32 (b,); with
        lighting_on='device' shift float32 (b, 3) in grey levels, zeros once lighting is over, so
        that the compiled step keeps one signature; with_offsets: offset int32 (b, 3), see
        `augmentation.Draws`. b = batch_size / process_count.

    Raises:
        UserError: if the sizes do not fit the dataset.
    """
    if split not in cache.images:
        raise UserError(f"{cache.name} has no split {split!r}, only {sorted(cache.images)}")
    images, labels = cache.images[split], cache.labels[split]
    _check_sizes(cache, len(images), batch_size, crop, process_count, split)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: expected 0 to {2**32 - 1}")
    positions = augmentation.crop_positions(cache.size, crop, last_offset)
    centre = None if crops else (cache.size - crop) // 2  # as in the test and of the mean image
    local = batch_size // process_count
    rows = slice(process_index * local, (process_index + 1) * local)

    @functools.lru_cache(maxsize=2)  # threads may be in two epochs at once
    def order(epoch: int) -> np.ndarray:
        return _generator(seed, -1 - epoch).permutation(len(images))

    def load(step: int) -> Batch:
        rng = _generator(seed, step)
        draws = augmentation.draw(rng, batch_size, positions, flip, centre).rows(rows)
        places = step * batch_size + np.arange(batch_size)[rows]
        epochs, within = np.divmod(places, len(images))
        indices = np.concatenate(
            [order(epoch)[within[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
        )
        read_soon(images, indices)
        lit = lighting != "none" and (lighting_steps is None or step < lighting_steps)
        shift = augmentation.lighting_shift(
            draws.alphas, cache.eigenvalues, cache.eigenvectors, lighting if lit else "none"
        )
        on_host = shift if lit and lighting_on == "host" else None
        batch = {
            "image": augmentation.cut(images, indices, draws.offsets, crop, on_host),
            "label": labels[indices],
        }
        if lighting_on == "device":
            batch["shift"] = shift
        if with_offsets:
            batch["offset"] = draws.offsets
        return batch

    threads = threads or (1 if isinstance(images, np.ndarray) else cores())
    # Numbers of batches, not of images: no epoch ends in a short batch, no example is dropped.
    return (
        grain.MapDataset.range(sys.maxsize)
        .map(load)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    )


def _generator(seed: int, number: int) -> np.random.Generator:
    """Batches have numbers from 0 up, epochs from -1 down."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, number]).view(np.uint64)))


def _check_sizes(
    cache: Cache, count: int, batch_size: int, crop: int, process_count: int, split: str
) -> None:
    if not 1 <= batch_size <= count:
        raise UserError(
            f"batch_size={batch_size}: expected 1 to {count}, the images of {cache.name} {split}"
        )
    if batch_size % process_count:
        raise UserError(f"batch_size={batch_size} does not divide into {process_count} equal parts")
    if not 1 <= crop <= cache.size:
        raise UserError(f"crop={crop}: the cached images are {cache.size} pixels wide")


def process_share(sharding: Any, batch_size: int) -> tuple[int, int]:
    """Which rows of a global batch the devices of this process hold.

    Processes are not shares: two hosts that hold one tower each need the same rows.

    Args:
        sharding: a jax Sharding of the batch axis alone.
        batch_size: B, over all processes.

    Returns:
        `process_index` and `process_count` for `training_stream`; (0, 1) in a single process.

    Raises:
        UserError: if the batch does not divide, or the rows are not one block.
    """
    try:
        blocks = sharding.addressable_devices_indices_map((batch_size,)).values()
    except ValueError as error:
        raise UserError(
            f"batch_size={batch_size} does not divide over the mesh: {error}"
        ) from error
    rows = sorted({row for (block,) in blocks for row in range(*block.indices(batch_size))})
    start, count = rows[0], len(rows)
    if rows[-1] - start + 1 != count or start % count or batch_size % count:
        raise UserError(
            f"the devices of this process hold rows that are no even block of the batch of "
            f"{batch_size}: order the mesh by process"
        )
    return start // count, batch_size // count


def device_stream(dataset: grain.IterDataset, sharding: Any) -> grain.IterDataset:
    """Puts batches on the devices ahead of their use, split over them by `sharding`.

    Its iterator's state counts the batches consumed, not those read ahead, so resume is exact.
    Close the iterator when done: an open one prints a traceback at exit.

    Args:
        dataset: a `training_stream`.
        sharding: a jax Sharding of the batch axis alone, such as NamedSharding(mesh, P('data')).

    Returns:
        A grain dataset of dicts of global jax arrays.
    """
    import jax

    if jax.process_count() == 1:
        return grain.experimental.device_put(
            dataset, sharding, cpu_buffer_size=AHEAD, device_buffer_size=AHEAD
        )

    # grain's device_put expects the whole global batch in every process; here each has its rows.
    prefetch = grain.experimental.ThreadPrefetchIterDataset
    dataset = prefetch(dataset, prefetch_buffer_size=AHEAD)
    dataset = dataset.map(lambda batch: assembled(batch, sharding))
    return prefetch(dataset, prefetch_buffer_size=AHEAD)


def assembled(batch: Batch, sharding: Any) -> dict[str, Any]:
    """The global arrays of a batch of which each process has its rows."""
    import jax

    if jax.process_count() == 1:
        placed: dict[str, Any] = jax.device_put(batch, sharding)
        return placed
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def evaluation_batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order, in batches of one fixed size.

    Args:
        images: uint8 (N, S, S, 3).
        labels: int (N,).
        batch_size: B, over all processes.
        process_index: which of the equal blocks of rows to make, see `process_share`.
        process_count: how many such blocks a batch has.

    Yields:
        image uint8 (b, S, S, 3), label int32 (b,), and weight float32 (b,): 1 for an example, 0
        for the padding that fills up the last batch. b = batch_size / process_count.
    """
    local = batch_size // process_count
    for start in range(process_index * local, len(images) + process_index * local, batch_size):
        count = min(local, max(0, len(images) - start))
        batch = {
            "image": np.zeros((local, *images.shape[1:]), np.uint8),
            "label": np.zeros(local, np.int32),
            "weight": np.zeros(local, np.float32),
        }
        if count:
            batch["image"][:count] = images[start : start + count]
            batch["label"][:count] = labels[start : start + count]
            batch["weight"][:count] = 1
        yield batch
