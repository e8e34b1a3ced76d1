"""A dataset that is decoded whenever an image is wanted: no cache, no disk space, and slow.

A core decodes some hundred JPEGs a second, a cache gives out more than ten thousand crops. For a
look at a large dataset, or where there is no room for a cache; `--config.data.cache=none` asks for
it. The images are those of the cache, pixel by pixel.
"""

import hashlib
import time
from concurrent import futures
from typing import Any

import cv2
import numpy as np
import tqdm

from alexnet_jax.data import decoding
from alexnet_jax.data.cache.splits import HOLDOUT_SEED, plan_splits
from alexnet_jax.data.cache.statistics import Sums
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.sources.record import Source, Split, label_of
from alexnet_jax.data.threads import cores
from alexnet_jax.errors import UserError

SAMPLE = 4096  # training images whose mean and colours stand for those of all


class Images:
    """Looks like the uint8 array (N, S, S, 3) of a cache; decodes what is asked for.

    An item is asked for as `images[i]`, `images[i, rows, columns]` or `images[start:stop]`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, split: Split, indices: np.ndarray, size: int, skipping: str):
        """Args:
        split: where the images are.
        indices: which of them.
        size: S.
        skipping: a command that makes a cache without those that cannot be used.
        """
        self._split = split
        self._indices = indices
        self._skipping = skipping
        self.shape = (len(indices), size, size, 3)
        self.labels = Labels(split, indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: Any) -> np.ndarray:
        index, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(index, slice):
            return self._load(index)[tuple(rest)]
        wanted = range(len(self))[index]
        with futures.ThreadPoolExecutor(cores()) as pool:
            loaded = list(pool.map(self._load, wanted))
        return np.array(loaded, np.uint8).reshape(len(wanted), *self.shape[1:])[
            (slice(None), *rest)
        ]

    def _load(self, row: Any) -> np.ndarray:
        problem = "an image cannot be read"
        try:
            record = self._split[int(self._indices[row])]
            problem = f"{record.name} cannot be used"
            self.labels.known[row] = record.label
            return decoding.load(record.content, self.shape[1])
        except (decoding.BadImage, OSError) as error:
            raise UserError(
                f"{problem} ({error}): fix or remove it; or prepare a cache "
                f"without it by `{self._skipping}` and leave out --config.data.cache=none"
            ) from error


class Labels:
    """Looks like the int32 array (N,) of a cache. An image is read for its label only where the
    source does not know that otherwise, and the image has not been asked for before."""

    def __init__(self, split: Split, indices: np.ndarray):
        self._split = split
        self._indices = indices
        self.known = np.full(len(indices), -1, np.int32)
        self.shape = (len(indices),)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = np.arange(len(self))[key]
        for row in np.atleast_1d(rows):
            if self.known[row] < 0:
                self.known[row] = label_of(self._split, int(self._indices[row]))
        return self.known[rows]


def open_undecoded(
    source: Source,
    size: int,
    holdout: float = 0,
    skipping: str = "python -m alexnet_jax.prepare --on_bad_image=skip",
) -> Cache:
    """The source as a cache that takes no space.

    Mean image and colour components come from a sample of 4,096 training images, or all of a
    smaller dataset; the sample is always the same.

    Args:
        source: the dataset.
        size: S, the side in pixels that images are fitted to.
        holdout: as in `building.make_cache`.
        skipping: the command that makes a cache without the images that cannot be used.

    Raises:
        UserError: the source cannot be trained on, or an image of the sample cannot be used.
    """
    plan = plan_splits(source, size, holdout)
    split, indices = plan["train"]
    order = np.random.Generator(np.random.Philox(HOLDOUT_SEED)).permutation(indices)
    cv2.setNumThreads(1)  # the threads that load images are the parallelism
    sample = Images(split, np.sort(order[:SAMPLE]), size, skipping)
    start = time.perf_counter()
    sums = _sample(sample)
    rate = len(sample) / (time.perf_counter() - start)
    print(
        f"{source.name}: every image is decoded in every epoch, {rate:,.0f} images/s at best on "
        f"{cores()} cores",
        flush=True,
    )
    images = {name: Images(*part, size, skipping) for name, part in plan.items()}
    eigenvalues, eigenvectors = sums.principal_components()
    counts = {name: len(indices) for name, (_, indices) in sorted(plan.items())}
    facts = (source.class_names, counts, size, sums.image.tobytes(), sums.products.tobytes())
    return Cache(
        path=source.name,
        name=source.name,
        size=size,
        class_names=source.class_names,
        mean_image=sums.mean_image(),
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        images=images,
        labels={name: part.labels for name, part in images.items()},
        fingerprint=hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
    )


def _sample(sample: Images) -> Sums:
    sums = Sums.zero(sample.shape[1])
    description = f"mean image and colours of {len(sample):,} images"
    with tqdm.tqdm(total=len(sample), desc=description, unit=" images", disable=None) as progress:
        for start in range(0, len(sample), 64):
            part = sample[start : start + 64]
            sums = sums + Sums.of(part)
            progress.update(len(part))
    return sums
