"""The paper's section 2, done once: every image at SxS, the mean image, the RGB components.

"We first rescaled the image such that the shorter side was of length 256, and then cropped out the
central 256x256 patch." Decoding and resizing cost a hundred times what a crop costs, so they are
done once (`building`) and kept in memory-mapped uint8 arrays, which every epoch and every run
then shares:

    train.images.npy       uint8 (N, S, S, 3), RGB
    train.labels.npy       int32 (N,)
    train.csv              label, CRC-32 of the pixels and name of every image, in order
    mean_image.npy         float32 (S, S, 3), of the training split
    skipped.csv            images that could not be used, with the reason; a head alone if none
    list.csv               the images of the source, with the sizes and times of their files
    meta.json              names, counts, checksums, eigenvalues and eigenvectors
"""

import csv
import dataclasses
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from alexnet_jax.errors import UserError

HEADER = 128  # bytes of a .images.npy file before its data
FORMAT = 2  # of the files; `open_cache` refuses any other
COLUMNS = ("label", "crc32", "name")  # of train.csv


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
        images: split name to memory-mapped uint8 (N, S, S, 3), or to an array-like that decodes
            what it is asked for (`data.on_demand`).
        labels: split name to int32 (N,), or to such an array-like.
        fingerprint: 16 hex digits that differ for other images, labels, size or splits.
    """

    path: str
    name: str
    size: int
    class_names: tuple[str, ...]
    mean_image: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    images: Mapping[str, Any]
    labels: Mapping[str, Any]
    fingerprint: str

    def rows(self, split: str) -> Iterator[tuple[int, int, str]]:
        """Label, CRC-32 and name of every image of a split, in order."""
        return read_rows(os.path.join(self.path, f"{split}.csv"))


def open_cache(path: str) -> Cache:
    """Opens a cache directory without reading its images.

    Raises:
        UserError: if it is not there, of another format, or its files do not fit together.
    """
    try:
        with open(os.path.join(path, "meta.json"), encoding="utf-8") as file:
            meta = json.load(file)
        if not isinstance(meta, dict) or "format" not in meta:
            raise UserError(
                f"{path} is no cache of this program (its meta.json is of something else): give "
                "another directory"
            )
        if meta["format"] != FORMAT:
            raise UserError(
                f"{path} was made by another version of alexnet_jax (format {meta['format']}, "
                f"expected {FORMAT}): delete it, it will be made again"
            )
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
            if not 0 <= labels[split].min() <= labels[split].max() < len(meta["class_names"]):
                raise ValueError(f"{split} has labels of classes that there are not")
        if fingerprint(meta, mean_image) != meta["fingerprint"]:
            raise ValueError("meta.json or mean_image.npy is not as it was written")
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
            fingerprint=meta["fingerprint"],
        )
    except FileNotFoundError as error:
        if os.path.isdir(partial_path(path)):
            way_out = (
                f"{partial_path(path)} is one that is not complete: prepare it again, it resumes"
            )
        elif os.path.isdir(path):
            way_out = "if it was one, delete it (rm -r) and prepare it again; or give another"
        else:
            way_out = "prepare it by `python -m alexnet_jax.prepare --source=... --out=...`"
        raise UserError(f"{path} is no cache ({error.filename} is missing): {way_out}") from error
    except OSError as error:  # a disk or a network that fails, or no permission: not damage
        raise UserError(f"{path} cannot be read ({error})") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and prepare it again") from error


def read_soon(images: Any, rows: Iterable[int]) -> None:
    """Asks the system to read images that are wanted next, where they are not in memory yet.

    A disk reads them side by side then, instead of one after the other as each is touched.

    Args:
        images: of a cache; those that are not memory-mapped are left alone.
        rows: their numbers.
    """
    mapped = getattr(images, "base", None)
    if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED"):  # as on Windows
        return
    size = images[0].nbytes
    for row in rows:
        start = images.offset + int(row) * size
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what `meta.json` of a cache says; None if there is none, or it is of no cache."""
    try:
        with open(os.path.join(path, "meta.json"), encoding="utf-8") as file:
            meta = json.load(file)
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and meta.get("format") == FORMAT else None


def partial_path(path: str) -> str:
    """Returns where a cache is made, until it is complete."""
    return f"{os.path.abspath(path)}.partial"


def fingerprint(meta: Mapping[str, Any], mean_image: np.ndarray) -> str:
    """16 hex digits of all that the cache holds, through the checksums of its lists. Its source,
    which may be a path, is not among it: the same data from another directory is the same data."""
    parts = ("size", "class_names", "counts", "checksums", "eigenvalues", "eigenvectors")
    facts = json.dumps({part: meta[part] for part in parts}, sort_keys=True)
    return hashlib.sha256(facts.encode() + mean_image.tobytes()).hexdigest()[:16]


def verify(cache: Cache) -> None:
    """Reads every image and compares it with the checksum that was taken before it was written.

    Raises:
        UserError: names what is damaged.
    """
    with open(os.path.join(cache.path, "meta.json"), encoding="utf-8") as file:
        checksums = json.load(file)["checksums"]
    for name, expected in checksums.items():
        path = os.path.join(cache.path, name)
        if not os.path.isfile(path):
            raise UserError(f"{cache.path} is damaged: {name} is missing; prepare it again")
        with open(path, "rb") as listed:
            if hashlib.file_digest(listed, "sha256").hexdigest() != expected:
                raise UserError(
                    f"{cache.path} is damaged: {name} is not as it was written; prepare it again"
                )
    total = sum(len(images) for images in cache.images.values())
    damaged = []
    with tqdm.tqdm(total=total, desc="verifying", unit=" images", disable=None) as progress:
        for split, images in cache.images.items():
            rows = cache.rows(split)
            for image, label, (expected, crc32, name) in zip(images, cache.labels[split], rows):
                if zlib.crc32(image) != crc32 or label != expected:
                    damaged.append(f"{split}: {name}")
                progress.update()
    if damaged:
        raise UserError(
            f"{cache.path} is damaged: {len(damaged)} of {total:,} images are not what was "
            f"written ({', '.join(damaged[:3])}{', ...' * (len(damaged) > 3)}): delete it, and "
            "prepare it again"
        )


def read_rows(path: str) -> Iterator[tuple[int, int, str]]:
    """The rows of a split's CSV file: label, CRC-32, name."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for label, crc32, name in rows:
            yield int(label), int(crc32, 16), name
