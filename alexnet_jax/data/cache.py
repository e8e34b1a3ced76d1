"""The paper's section 2, done once: every image at SxS, the mean image, the RGB components.

"We first rescaled the image such that the shorter side was of length 256, and then cropped out the
central 256x256 patch." Decoding and resizing cost a hundred times what a crop costs, so they are
done once and kept in memory-mapped uint8 arrays, which every epoch and every run then shares:

    <name>-<size>/train.images.npy       uint8 (N, S, S, 3), RGB
    <name>-<size>/train.labels.npy       int32 (N,)
    <name>-<size>/mean_image.npy         float32 (S, S, 3), of the training split
    <name>-<size>/meta.json              names, counts, eigenvalues and eigenvectors

A cache is complete or not there: it is written beside its place, under a lock, and renamed.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent import futures

import cv2
import numpy as np
import tqdm

from alexnet_jax.data import sources
from alexnet_jax.errors import UserError

FORMAT = 1  # of the files; `open_cache` refuses any other
HOLDOUT_SEED = 2012  # which images are held out is a fact of the dataset, not of a run's seed
CHUNK = 64  # images a worker takes at a time


@dataclasses.dataclass(frozen=True)
class Cache:
    """A dataset at a fixed resolution.

    Attributes:
        path: its directory.
        name: the source it was made from.
        size: S, the side of an image in pixels.
        class_names: what each label means.
        mean_image: float32 (S, S, 3), the mean of the training images, 0..255.
        eigenvalues: float64 (3,), ascending, of the covariance of the training pixels' RGB values,
            in squared grey levels (their square roots are `color_stdevs` in cuda-convnet2).
        eigenvectors: float64 (3, 3); column k belongs to eigenvalue k, rows are R, G, B.
        images: split name to memory-mapped uint8 (N, S, S, 3).
        labels: split name to int32 (N,).
        fingerprint: 16 hex digits that differ for another dataset, size or split.
    """

    path: str
    name: str
    size: int
    class_names: tuple[str, ...]
    mean_image: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    images: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    fingerprint: str


def ensure_cache(spec: str, size: int, data_dir: str | None = None, holdout: int = 0) -> Cache:
    """Opens the cache of a data source, made first where it is not there.

    It lies under `data_dir`/alexnet_jax. Two processes that ask at once make it once. A folder
    whose files change keeps its cache: delete the cache to have it made again.

    Args:
        spec: the data source, see `sources`.
        size: S, the side of the cached images in pixels (256 in the paper).
        data_dir: TFDS's directory, or None for its default.
        holdout: how many training images become the split 'validation'.

    Raises:
        UserError: if the source, the size or the directory is not usable.
    """
    data_dir = sources.resolve_data_dir(data_dir)
    if "://" in data_dir:
        raise UserError(
            f"config.data.dir={data_dir}: a cache is memory-mapped, give a local directory"
        )
    name = cache_name(spec, size, holdout)
    path = os.path.join(data_dir, "alexnet_jax", name)
    if not os.path.isdir(path):
        return make_cache(sources.open_source(spec, data_dir), size, path, holdout)
    return open_cache(path)


def cache_name(spec: str, size: int, holdout: int = 0) -> str:
    """A readable directory name: embedded-full-1.0.0-128, imagenet2012-5.1.0-256, pets-1f3a99c0-64.

    A folder's name alone would be ambiguous, so eight digits of its path's hash follow it.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("folder", "idx"):
        full = os.path.realpath(os.path.expanduser(rest))
        name = f"{os.path.basename(full)}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    elif kind.startswith("embedded"):
        from alexnet_jax.data import embedded  # a newer version of the package may draw otherwise

        name = f"embedded-{spec.partition('/')[2] or 'full'}-{embedded.EmbeddedImages.VERSION}"
    else:
        name = rest or kind
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return f"{name}-{size}" + (f"-holdout{holdout}" if holdout else "")


def open_cache(path: str) -> Cache:
    """Opens a cache directory without reading its images.

    Raises:
        UserError: if it is not there, of another format, or its files do not fit together.
    """
    try:
        with open(os.path.join(path, "meta.json"), encoding="utf-8") as file:
            meta = json.load(file)
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, expected {FORMAT}")
        mean_image = np.load(os.path.join(path, "mean_image.npy"))
        images, labels = {}, {}
        for split, count in meta["counts"].items():
            images[split] = np.load(os.path.join(path, f"{split}.images.npy"), mmap_mode="r")
            labels[split] = np.load(os.path.join(path, f"{split}.labels.npy"))
            if images[split].shape != (count, meta["size"], meta["size"], 3):
                raise ValueError(
                    f"{split} has shape {images[split].shape}, expected {count} images"
                )
            if labels[split].shape != (count,):
                raise ValueError(f"{split} has {len(labels[split])} labels, expected {count}")
    except FileNotFoundError as error:
        raise UserError(f"{path} is no cache ({error.filename} is missing)") from error
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, it will be made again") from error
    return Cache(
        path=path,
        name=meta["name"],
        size=meta["size"],
        class_names=tuple(meta["class_names"]),
        mean_image=mean_image,
        eigenvalues=np.array(meta["eigenvalues"]),
        eigenvectors=np.array(meta["eigenvectors"]),
        images=images,
        labels=labels,
        fingerprint=_fingerprint(meta, mean_image, labels),
    )


def _fingerprint(meta: dict, mean_image: np.ndarray, labels: dict[str, np.ndarray]) -> str:
    """16 hex digits of everything but the images, which the statistics stand for, and the name,
    which may be a path: the same data moved to another directory is the same data."""
    facts = {key: value for key, value in meta.items() if key != "name"}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode() + mean_image.tobytes())
    for split in sorted(labels):
        digest.update(split.encode() + labels[split].tobytes())
    return digest.hexdigest()[:16]


def make_cache(
    source: sources.Source, size: int, path: str, holdout: int = 0, workers: int | None = None
) -> Cache:
    """Writes a source's cache to the directory `path`, with the statistics of its training split.

    Args:
        source: the dataset.
        size: S, the side of the cached images in pixels.
        path: the directory to make; where another process makes it first, theirs is opened.
        holdout: N training images, always the same ones, become the split 'validation' and count
            in no statistic.
        workers: threads (Pillow and OpenCV release the GIL); None for all cores. The files are the
            same for any number.

    Raises:
        UserError: for too few classes or images, a full disk, or a damaged image.
    """
    plan = _plan_splits(source, size, holdout)
    parent, name = os.path.split(os.path.abspath(path))
    with sources.exclusive_lock(os.path.join(parent, f".{name}.lock")):
        if os.path.isdir(path):  # another process made it while this one waited
            return open_cache(path)
        for leftover in pathlib.Path(parent).glob(f".{name}.partial-*"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        _check_disk(sum(len(indices) for _, indices in plan.values()) * size * size * 3, parent)
        partial = os.path.join(parent, f".{name}.partial-{os.getpid()}")
        try:
            os.mkdir(partial)
            _write(source, plan, size, partial, holdout, workers or _cores())
            os.rename(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # gone already if all went well
    return open_cache(path)


def _cores() -> int:
    """The cores this process may use; a container's share is not the machine's count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


Plan = dict[str, tuple[sources.Split, np.ndarray]]  # split name: the split to read, which images


def _plan_splits(source: sources.Source, size: int, holdout: int) -> Plan:
    """Says which source image goes where, and refuses what cannot be trained on."""
    if size < 1:
        raise UserError(f"image size {size}: expected a positive number of pixels")
    if len(source.class_names) < 2:
        raise UserError(
            f"{source.name} has {len(source.class_names)} class(es); at least two are needed"
        )
    if len(source.splits.get("train", ())) == 0:
        raise UserError(f"{source.name} has no training images (splits: {sorted(source.splits)})")
    plan = {name: (split, np.arange(len(split))) for name, split in source.splits.items()}
    if holdout:
        if "validation" in plan:
            raise UserError(
                f"{source.name} has a validation split of its own: set holdout={holdout} to 0"
            )
        split, indices = plan["train"]
        if not 0 < holdout < len(indices):
            raise UserError(
                f"holdout={holdout}: expected 1 to {len(indices) - 1}, one less than the training "
                "images"
            )
        order = np.random.Generator(np.random.Philox(HOLDOUT_SEED)).permutation(len(indices))
        plan["validation"] = split, np.sort(order[:holdout])
        plan["train"] = split, np.sort(order[holdout:])
    return plan


def _check_disk(needed: int, directory: str) -> None:
    free = shutil.disk_usage(directory).free
    if needed * 1.01 > free:  # a little over, for labels and the file system's own use
        raise UserError(
            f"the cache needs {needed / 1e9:.1f} GB in {directory}, where {free / 1e9:.1f} GB are "
            "free: set config.data.dir to a larger disk, or choose a smaller image size"
        )


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Scales the shorter side to `size` and cuts the central square.

    As cuda-convnet2, make-data/pyext/src/pyext.cpp:103-122: area interpolation to shrink, cubic to
    enlarge; without its second JPEG encoding.

    Args:
        image: uint8 (H, W, 3).
        size: S in pixels; what returns is uint8 (S, S, 3).
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter != size:
        scale = size / shorter
        height, width = math.floor(scale * height + 0.5), math.floor(scale * width + 0.5)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=how)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


@dataclasses.dataclass
class Sums:
    """Exact integer sums over images, from which every statistic follows.

    Attributes:
        count: images.
        image: int64 (S, S, 3), the sum of the images.
        products: int64 (3, 3), the sum over all pixels of (r, g, b)^T (r, g, b).
    """

    count: int
    image: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> "Sums":
        """The sums of uint8 (N, S, S, 3)."""
        # A float64 product is exact here (below 2^53 for N * S * S < 1.4e11) and uses BLAS.
        products = np.zeros((3, 3), np.int64)
        for image in images:
            pixels = image.reshape(-1, 3).astype(np.float64)
            products += (pixels.T @ pixels).astype(np.int64)
        return cls(len(images), images.sum(axis=0, dtype=np.int64), products)

    def add(self, other: "Sums") -> None:
        self.count += other.count
        self.image += other.image
        self.products += other.products

    def mean_image(self) -> np.ndarray:
        """float32 (S, S, 3)."""
        return (self.image / self.count).astype(np.float32)

    def principal_components(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (3,), ascending, and eigenvectors (3, 3) as columns, of the RGB covariance.

        The covariance is over all pixels of all images (paper section 4.1), divided by their
        number. Its numerator is taken in Python's integers: n * products overflows int64 on
        ImageNet. An eigenvector's sign is free; its largest entry is made positive.
        """
        n = self.count * self.image.shape[0] * self.image.shape[1]
        total = self.image.sum(axis=(0, 1)).astype(object)
        numerator = n * self.products.astype(object) - np.outer(total, total)
        covariance = (numerator / (n * n)).astype(np.float64)
        values, vectors = np.linalg.eigh(covariance)
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(3)]
        return np.maximum(values, 0.0), vectors * np.sign(largest)


def _write(
    source: sources.Source, plan: Plan, size: int, directory: str, holdout: int, workers: int
) -> None:
    """Writes every file of a cache into an empty directory."""
    sums = Sums(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))
    for name, (split, indices) in plan.items():
        file = os.path.join(directory, f"{name}.images.npy")
        shape = (len(indices), size, size, 3)
        images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
        labels = np.empty(len(indices), np.int32)
        for part in _fill(images, labels, split, indices, name, source.name, workers):
            if name == "train":  # the paper: "over the training set"; validation images stay unseen
                sums.add(part)
        if labels.size and not 0 <= labels.min() <= labels.max() < len(source.class_names):
            raise UserError(
                f"{source.name} {name}: labels {labels.min()} to {labels.max()}, but "
                f"{len(source.class_names)} classes"
            )
        images.flush()
        del images
        np.save(os.path.join(directory, f"{name}.labels.npy"), labels)
    np.save(os.path.join(directory, "mean_image.npy"), sums.mean_image())
    eigenvalues, eigenvectors = sums.principal_components()
    meta = {
        "format": FORMAT,
        "name": source.name,
        "size": size,
        "holdout": holdout,
        "counts": {name: len(indices) for name, (_, indices) in plan.items()},
        "eigenvalues": eigenvalues.tolist(),
        "eigenvectors": eigenvectors.tolist(),
        "class_names": list(source.class_names),
    }
    with open(os.path.join(directory, "meta.json"), "w", encoding="utf-8") as out:
        json.dump(meta, out, indent=1, ensure_ascii=False)


def _fill(
    images: np.ndarray,
    labels: np.ndarray,
    split: sources.Split,
    indices: np.ndarray,
    split_name: str,
    source_name: str,
    workers: int,
) -> Iterator[Sums]:
    """Decodes and fits images into the arrays on all workers; yields the chunks' sums in order."""

    def fill(start: int) -> Sums:
        stop = min(start + CHUNK, len(indices))
        for row in range(start, stop):
            index = int(indices[row])
            try:
                image, labels[row] = split[index]
            except OSError as error:
                raise UserError(
                    f"{source_name}: image {index} of split {split_name} cannot be decoded "
                    f"({error}); mend or remove it"
                ) from error
            images[row] = fit(image, size)
        return Sums.of(images[start:stop])

    size = images.shape[1]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the workers are the parallelism; OpenCV's own threads would fight them
    progress = tqdm.tqdm(
        total=len(indices),
        desc=f"{source_name} {split_name} at {size}x{size}",
        unit=" images",
        disable=not sys.stderr.isatty(),
    )
    try:
        with progress, futures.ThreadPoolExecutor(workers) as pool:
            try:
                for sums in pool.map(fill, range(0, len(indices), CHUNK)):
                    progress.update(sums.count)
                    yield sums
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or Ctrl-C waits for the rest of ImageNet
                raise
    finally:
        cv2.setNumThreads(threads)
