"""The list of a source's images: by it a cache knows whether they are still as they were.

Compared are the names in their order, the labels, and of every file its size and the time of its
last change. A file that was replaced by one of the same size and time is suspected by the time at
which the system itself last changed it, which nobody can set; see `Listing.suspects`.
Where many images are in one file (tars, TFDS) its size alone counts, since a copy of it may have
another time. Nothing is read or decoded: a million files are compared in some 15 seconds.
"""

import csv
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import PIL
import simplejpeg

from alexnet_jax.data.sources.record import Source, Split, files_of, label_of

FILE = "list.csv"
COLUMNS = ("split", "name", "label", "bytes", "modified")
SHOWN = 3  # names in a message


class Stamp(NamedTuple):
    """What is known of an image, or of a file of images, without reading it."""

    label: str  # '' for a file of images
    bytes: int
    modified: int  # nanoseconds since 1970; 0 for a file of images


Listed = dict[tuple[str, str], Stamp]  # by split and name


class Listing:
    """The list as it is now."""

    def __init__(self, source: Source) -> None:
        """Looks at every file of the source, but reads none."""
        self._splits = source.splits
        self._class_names = source.class_names
        self._files = {name: files_of(split) for name, split in source.splits.items()}
        self._stamps: dict[str, np.ndarray] = {}  # int64 (files, 2): size, time
        self._touched: dict[str, np.ndarray] = {}  # int64 (files,): when the system changed it
        for name, files in self._files.items():
            found = np.array([_size_and_times(file) for file in files], np.int64).reshape(-1, 3)
            if not _one_each(source.splits[name], files):
                found[:, 1:] = 0
            self._stamps[name] = np.ascontiguousarray(found[:, :2])
            self._touched[name] = found[:, 2]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the sizes and times, '' where no files are known; the names are in the
        source's identity."""
        if not any(self._files.values()):
            return ""
        digest = hashlib.sha256()
        for name, stamps in sorted(self._stamps.items()):
            digest.update(f"{name} {len(stamps)}\n".encode() + stamps.tobytes())
        return digest.hexdigest()

    def stamp(self, split: str, index: int) -> tuple[str, Stamp] | None:
        """The name and stamp of an image; None where it has no file of its own."""
        source_split = self._splits[split]
        if not _one_each(source_split, self._files[split]):
            return None
        name = source_split.name(index)  # type: ignore[attr-defined]
        return name, Stamp(str(label_of(source_split, index)), *self._stamps[split][index].tolist())

    def suspects(self, since: int) -> Iterator[tuple[str, str]]:
        """Split and name of the images whose files were written, replaced, moved or copied since.

        Args:
            since: nanoseconds since 1970, see `written_at`.
        """
        for split, times in self._touched.items():
            for index in np.flatnonzero(times > since).tolist():
                if stamped := self.stamp(split, index):
                    yield split, stamped[0]

    def rows(self) -> Iterator[tuple[str, str, Stamp]]:
        """Split, name and stamp of every image with a file of its own, and of the other files."""
        for split, files in self._files.items():
            for index, file in enumerate(files):
                named = self.stamp(split, index)
                size, _ = self._stamps[split][index].tolist()
                yield split, *(named or (file, Stamp("", size, 0)))

    def write(self, directory: pathlib.Path) -> None:
        """Writes the list into a directory, all at once or not at all."""
        partial = directory / f"{FILE}.tmp"
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            writer.writerow(COLUMNS)
            writer.writerows((split, name, *stamp) for split, name, stamp in self.rows())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / FILE)

    def listed(self) -> Listed:
        """The list as `read` returns it."""
        return {(split, name): stamp for split, name, stamp in self.rows()}


def read(directory: pathlib.Path | str) -> Listed | None:
    """Reads the list that a cache, or a part of one, was made from; None if there is none."""
    listed: Listed = {}
    try:
        with open(
            os.path.join(directory, FILE), encoding="utf-8", errors="surrogateescape", newline=""
        ) as file:
            rows = csv.reader(file)
            next(rows)
            for split, name, label, size, modified in rows:
                listed[split, name] = Stamp(label, int(size), int(modified))
    except (OSError, ValueError, StopIteration):
        return None
    return listed


def written_at(directory: pathlib.Path | str) -> int:
    """When the list in a directory was written, in nanoseconds since 1970; never, if it was not."""
    try:
        return os.stat(os.path.join(directory, FILE)).st_mtime_ns
    except OSError:
        return np.iinfo(np.int64).max


class Changes(NamedTuple):
    """What is different between two lists, as (split, name)."""

    added: list[tuple[str, str]]
    removed: list[tuple[str, str]]
    changed: list[tuple[str, str]]  # of another size or label
    touched: list[tuple[str, str]]  # changed at another time, but of the same size

    def __str__(self) -> str:
        """'2 images added (train/dog/3.png, train/dog/4.png), 1 removed (...)'."""
        changed = self.changed + self.touched
        found = [("added", self.added), ("removed", self.removed), ("changed", changed)]
        found = [(what, keys) for what, keys in found if keys]
        parts = [
            f"{len(keys):,}{noun} {what} ({_some(name for _, name in keys)})"
            for (what, keys), noun in zip(
                found, [" image" + "s" * (len(found[0][1]) > 1), "", ""] if found else []
            )
        ]
        return ", ".join(parts)


def compare(before: Listed, now: Listed) -> Changes:
    """Returns what is different now."""
    both = [key for key in before if key in now]
    return Changes(
        added=[key for key in now if key not in before],
        removed=[key for key in before if key not in now],
        changed=[key for key in both if before[key][:2] != now[key][:2]],
        touched=[
            key for key in both if before[key][:2] == now[key][:2] and before[key] != now[key]
        ],
    )


def classes_changed(before: Sequence[str], now: Sequence[str]) -> str:
    """How the classes are others now, for people; '' if they are not."""
    if list(before) == list(now):
        return ""
    added, removed = (
        [n for n in now if n not in set(before)],
        [n for n in before if n not in set(now)],
    )
    if not added and not removed:
        return "the classes are in another order"
    parts = [f"{what} {_some(names)}" for what, names in (("new", added), ("no", removed)) if names]
    return f"{len(now):,} classes instead of {len(before):,}, {' and '.join(parts)}"


def versions() -> dict[str, str]:
    """Versions of the libraries that pixels, or the choice of what is held out, depend on."""
    modules = {"OpenCV": cv2, "Pillow": PIL, "simplejpeg": simplejpeg, "NumPy": np}
    return {name: str(module.__version__) for name, module in modules.items()}


def other_versions(before: Mapping[str, str]) -> str:
    """Which libraries have other versions now, for people; '' if none has."""
    return ", ".join(
        f"{name} {before[name]} (here {version})"
        for name, version in versions().items()
        if before.get(name, version) != version
    )


def _one_each(split: Split, files: Sequence[str]) -> bool:
    """Whether every image has a file of its own, and a name without being read."""
    return len(files) == len(split) and hasattr(split, "name")


def _size_and_times(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:  # a link to nowhere; whoever reads it will say so
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _some(names: Iterable[str]) -> str:
    first = [name.encode(errors="replace").decode() for name in names]
    return ", ".join(first[:SHOWN]) + ", ..." * (len(first) > SHOWN)
