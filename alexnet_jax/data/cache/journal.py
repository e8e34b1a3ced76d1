"""Files that only grow, and the record of how far each is whole: what a kill cannot undo."""

import dataclasses
import io
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from alexnet_jax.data.cache.splits import described
from alexnet_jax.data.cache.statistics import Sums
from alexnet_jax.errors import UserError


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

    def save(self, directory: pathlib.Path, settings: dict[str, Any]) -> None:
        """Records it, all at once or not at all.

        A record that says more than the files hold is not believed by the next start.
        """
        facts = json.dumps({"settings": settings, "read": self.read, "lengths": self.lengths})
        partial = directory / "progress.tmp"
        with partial.open("wb") as file:
            np.savez(
                file,
                facts=np.array(facts),
                count=self.sums.count,
                image=self.sums.image,
                products=self.sums.products,
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / "progress.npz")


def recorded(directory: pathlib.Path, settings: dict[str, Any]) -> Position | None:
    """The position that was saved; None if there is none, or the files are not what it says.

    Raises:
        UserError: the files are those of another preparation.
    """
    try:
        with (directory / "progress.npz").open("rb") as file, np.load(file) as saved:
            facts = json.loads(str(saved["facts"]))
            sums = Sums(int(saved["count"]), saved["image"], saved["products"])
        whole = all(
            (directory / name).stat().st_size >= length for name, length in facts["lengths"].items()
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # never recorded, or damaged
    if facts["settings"] != settings:
        raise UserError(
            f"{directory} is part of another preparation, {described(facts['settings'])}; asked "
            f"for is {described(settings)}: delete it, or give another place"
        )
    return Position(facts["read"], facts["lengths"], sums) if whole else None


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
        for file in self._open.values():
            os.fdatasync(file.fileno())

    def close(self) -> None:
        for file in self._open.values():
            file.close()
