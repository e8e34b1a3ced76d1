"""What a data source is: splits of labelled images, each with the name it came by."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Record(NamedTuple):
    """One image as its source keeps it.

    Attributes:
        name: where it comes from, such as 'n01440764/n01440764_10026.JPEG'; unique in its split.
        label: 0..classes-1.
        content: the bytes of an image file, or pixels, uint8 (H, W, 3) in RGB order.
    """

    name: str
    label: int
    content: bytes | np.ndarray


class Split(Protocol):
    """Records by index; safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """The record, undecoded.

        Raises:
            OSError: it cannot be read; the message names it.
        """


def label_of(split: Split, index: int) -> int:
    """The label of a record, which is read only where the split has no method `label`."""
    known = getattr(split, "label", None)
    return split[index].label if known is None else known(index)


def files_of(split: Split) -> list[str]:
    """The files that hold a split: one for each record, in order, or fewer that hold them all; none
    where that is not known."""
    known = getattr(split, "files", None)
    return [] if known is None else known()


class LeftOut(Mapping[str, int]):
    """How many files a dataset or a folder holds that are not used, by reason.

    Its text is one line for people, the commonest reasons first; of no files it is false.
    """

    REASONS = 6  # in the text

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Counts files; `name` is that of one of them, and the reason fits behind a number."""
        self._counts[reason] = self._counts.get(reason, 0) + count
        self._first[reason] = min(name, self._first.get(reason, name))

    def merge(self, other: "LeftOut") -> None:
        """Counts what another has counted."""
        for reason, count in other.items():
            self.add(reason, other._first[reason], count)

    def __getitem__(self, reason: str) -> int:
        return self._counts[reason]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __str__(self) -> str:
        """'left out: 4 HEIC (such as train/cup/IMG_4.HEIC), 200 .txt (such as ...)'."""
        if not self:
            return "left out: nothing"
        order = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        parts = [
            f"{count:,} {reason} (such as {_printable(self._first[reason])})"
            for reason, count in order[: self.REASONS]
        ]
        if order[self.REASONS :]:
            parts.append(f"{sum(count for _, count in order[self.REASONS :]):,} others")
        return f"left out: {', '.join(parts)}"


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace").replace("\n", "\\n")


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset.

    Attributes:
        name: how it was asked for, such as 'tfds:imagenet2012'.
        class_names: what each label means.
        splits: by name, 'train', 'validation' and 'test' where there are such.
        identity: a text that changes when the list of images or of labels does; so a preparation
            that was broken off goes on with the same list or not at all.
        left_out: what is there and not used, to be printed where there is anything.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    identity: str
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut, compare=False)
