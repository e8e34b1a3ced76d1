"""What a data source is: splits of labelled images, each with the name it came by."""

import dataclasses
from collections.abc import Mapping
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


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset.

    Attributes:
        name: how it was asked for, such as 'tfds:imagenet2012'.
        class_names: what each label means.
        splits: by name, 'train', 'validation' and 'test' where there are such.
        identity: a text that changes when the list of images or of labels does; so a preparation
            that was broken off goes on with the same list or not at all.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    identity: str
