"""What earlier preparations made of the same images: what has not changed is taken from there."""

import itertools
import os
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from alexnet_jax.data.cache import journal, listing
from alexnet_jax.data.cache.request import Request
from alexnet_jax.data.cache.store import HEADER, read_meta, read_rows


class Earlier:
    """Finished images by split, name, and size and time of their files."""

    def __init__(self, directories: Iterable[pathlib.Path], request: Request) -> None:
        """Looks through the lists of directories; reads no image.

        Args:
            directories: of caches, and of preparations that were broken off.
            request: what is asked for. Only images of its source and size, made by the same
                versions of the libraries, are taken.
        """
        self._request = request
        self._found: dict[tuple[str, str], tuple[listing.Stamp, np.ndarray, int, int]] = {}
        for directory in directories:
            self._add(directory)

    def get(self, split: str, index: int) -> tuple[str, int, np.ndarray] | None:
        """The name, label and pixels, uint8 (S, S, 3), of an image of the source; None if they are
        not there, or not as they were written."""
        stamped = self._found and self._request.listing.stamp(split, index)
        if not stamped:
            return None
        name, stamp = stamped
        before, images, row, crc32 = self._found.get((split, name), (None, None, 0, 0))
        if images is None or before is None or before[1:] != stamp[1:]:
            return None
        pixels = images[row]
        return (name, int(stamp.label), pixels) if zlib.crc32(pixels) == crc32 else None

    def _add(self, directory: pathlib.Path) -> None:
        facts, counts = _facts(directory, self._request.size)
        if not facts or not self._request.is_same_kind(facts):
            return
        stamps = listing.read(directory) or {}
        for suspect in self._request.listing.suspects(listing.written_at(directory)):
            stamps.pop(suspect, None)
        for split, count in counts.items():
            of = "train" if split == "validation" and facts["settings"]["holdout"] else split
            images = np.memmap(
                directory / f"{split}.images.npy", np.uint8, "r", HEADER,
                (count, self._request.size, self._request.size, 3),
            )  # fmt: skip
            rows = read_rows(os.path.join(directory, f"{split}.csv"))
            for row, (_, crc32, name) in enumerate(itertools.islice(rows, count)):
                stamp = stamps.get((of, name))
                if stamp:
                    self._found[of, name] = stamp, images, row, crc32


def _facts(directory: pathlib.Path, size: int) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """What the images in a directory are of, and how many of each split are whole."""
    meta = read_meta(directory)
    if meta:
        return meta, meta["counts"]
    try:
        record = journal.recorded(directory)
    except (ValueError, OSError):
        record = None
    if record is None:
        return None, {}
    lengths = record.position.lengths
    counts = {
        split: (lengths.get(f"{split}.images.npy", HEADER) - HEADER) // (size * size * 3)
        for split in record.facts["settings"]["images"]
    }
    return record.facts, {split: count for split, count in counts.items() if count}
