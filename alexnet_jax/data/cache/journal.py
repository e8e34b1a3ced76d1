"""Files that only grow, and the record of how far each is whole: what a kill cannot undo, nor a
power cut. A directory in which they lie carries a mark; without it nothing here is deleted.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.cache.statistics import Sums

MARK = "alexnet_jax-is-preparing.txt"
MARK_TEXT = """A cache is being made here, by `python -m alexnet_jax.prepare` or `main`. Where
none is running, the same command resumes; or delete this directory.
"""
RECORD = "progress.npz"
OWN_FILES = (  # besides those of each split, and the mark, which goes last
    "skipped.csv", "list.csv", "list.csv.tmp", "mean_image.npy", "meta.json", "progress.tmp", RECORD
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a preparation has come.

    Attributes:
        read: by split, the images that were looked at, in the order of the plan.
        lengths: by file name, the bytes that are whole.
        sums: of the training images among them.
    """

    read: dict[str, int]
    lengths: dict[str, int]
    sums: Sums

    def save(self, directory: pathlib.Path, facts: dict[str, Any]) -> None:
        """Records it, all at once or not at all. What it says is whole must be on the disk.

        Args:
            directory: where the files lie.
            facts: what the preparation is of, in plain values.
        """
        text = json.dumps(facts | {"read": self.read, "lengths": self.lengths})
        partial = directory / "progress.tmp"
        with partial.open("wb") as file:
            np.savez(
                file,
                facts=np.array(text),
                count=self.sums.count,
                image=self.sums.image,
                products=self.sums.products,
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / RECORD)
        sync_directory(directory)


class Recorded(NamedTuple):
    """What a record says."""

    facts: dict[str, Any]
    position: Position


def recorded(directory: pathlib.Path) -> Recorded | None:
    """The position that was saved; None if none was, or not this.

    Raises:
        ValueError: the record is damaged, or the files are not what it says.
    """
    try:
        with (directory / RECORD).open("rb") as file, np.load(file) as saved:
            facts = json.loads(str(saved["facts"]))
            sums = Sums(int(saved["count"]), saved["image"], saved["products"])
        position = Position(facts.pop("read"), facts.pop("lengths"), sums)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{RECORD} cannot be read ({error})") from error
    for name, length in position.lengths.items():
        found = (directory / name).stat().st_size if (directory / name).exists() else 0
        if found < length:
            raise ValueError(f"{name} has {found:,} bytes, but {length:,} are recorded")
    return Recorded(facts, position)


class GrowingFiles:
    """Files that grow from a position on; what an interrupted append left behind it is cut off."""

    def __init__(self, directory: pathlib.Path, lengths: dict[str, int]):
        self._directory = directory
        self._lengths = lengths
        self._open: dict[str, io.FileIO] = {}

    def append(self, name: str, content: Any) -> int:
        """Returns the file's new length in bytes."""
        if name not in self._open:
            (self._directory / name).touch()
            file = self._open[name] = (self._directory / name).open("r+b", buffering=0)
            file.truncate(self._lengths.get(name, 0))
            file.seek(0, os.SEEK_END)
        file = self._open[name]
        rest = memoryview(content).cast("B") if len(content) else b""
        while len(rest):  # megabytes at once cost up to ten times more, where Linux has to put
            rest = rest[file.write(rest[: 1 << 18]) :]  # large pages together for them
        return file.tell()

    def sync(self) -> None:
        """Returns when all that was appended is on the disk."""
        sync = getattr(os, "fdatasync", os.fsync)  # macOS has none, which leaves out the times
        for file in self._open.values():
            sync(file.fileno())

    def close(self) -> None:
        for file in self._open.values():
            file.close()


def begin(directory: pathlib.Path) -> None:
    """Makes a directory with the mark in it."""
    directory.mkdir(exist_ok=True)
    with (directory / MARK).open("w") as file:
        file.write(MARK_TEXT)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)
    sync_directory(directory.parent)


def is_marked(directory: pathlib.Path) -> bool:
    """Whether a directory is one of this program's own, or empty."""
    if (directory / MARK).is_file() or not any(directory.iterdir()):
        return True
    try:  # of a version without the mark
        return recorded(directory) is not None
    except (ValueError, OSError):
        return False


def discard(directory: pathlib.Path) -> None:
    """Deletes this program's files in a directory, and that if nothing else is in it."""
    if directory.is_symlink() or not directory.is_dir():
        return
    for images in directory.glob("*.images.npy"):
        split = images.name.removesuffix(".images.npy")
        for path in (directory / f"{split}.csv", directory / f"{split}.labels.npy", images):
            path.unlink(missing_ok=True)
    for name in (*OWN_FILES, MARK):
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of someone else's is in it
        directory.rmdir()


def sync_directory(path: pathlib.Path | str) -> None:
    """Returns when the names in a directory are on the disk, where a system can be asked that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
