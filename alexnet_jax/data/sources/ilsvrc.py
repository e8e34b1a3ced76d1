"""ILSVRC-2012 straight from the two tars that image-net.org gives out, without extracting them.

    ILSVRC2012_img_train.tar     1000 tars, n01440764.tar with n01440764/n01440764_10026.JPEG and
                                 so on, each image under its bare name
    ILSVRC2012_img_val.tar       ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG

The tars are read once from header to header for the offset and the size of every image, and refused
unless all of the challenge is there. After that an image is one `os.pread`. The test images have no
public labels and are not read.
"""

import dataclasses
import functools
import itertools
import os
import re
import sys
import weakref
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np
import tqdm

from alexnet_jax.data.sources.file_lists import list_identity
from alexnet_jax.data.sources.record import Record, Source
from alexnet_jax.data.sources.tars import DOWNLOAD, TRAIN, VALIDATION, Tar
from alexnet_jax.errors import UserError

ENTRY = np.dtype([("name", "S40"), ("offset", np.int64), ("size", np.int64), ("label", np.int32)])
Row = tuple[bytes, int, int, int]  # an ENTRY: name, offset, size, label


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the two tars have to hold.

    Attributes:
        wnids: the WordNet id of each class in label order.
        train_count: training images in all.
        per_class: how many training images a class may have.
        validation_labels: the label of validation image 1, 2, 3 and so on.
    """

    wnids: tuple[str, ...]
    train_count: int
    per_class: range
    validation_labels: tuple[int, ...]


@functools.cache
def official_layout() -> Layout:
    """The challenge of 2012; labels as `tfds:imagenet2012` has them, whose lists these are."""
    lists = resources.files("tensorflow_datasets.datasets.imagenet2012")
    wnids = (lists / "labels.txt").read_text(encoding="utf-8").split()
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    validation = (lists / "validation_labels.txt").read_text(encoding="utf-8").split()
    return Layout(
        wnids=tuple(wnids),
        train_count=1_281_167,
        per_class=range(732, 1301),
        validation_labels=tuple(labels[wnid] for wnid in validation),
    )


class TarSplit:
    """Members of a tar by their place in it."""

    def __init__(self, path: str, entries: np.ndarray):
        self._path = path
        self._entries = entries  # of ENTRY
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple:
        return TarSplit, (self._path, self._entries)  # another process opens its own file

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        name, offset, size, label = self._entries[index].item()
        try:
            content = os.pread(self._file, size, offset)
        except OSError as error:
            raise OSError(f"{self._path}: {name.decode()}: {error.strerror}") from error
        if len(content) != size:
            raise OSError(f"{self._path}: {name.decode()}: the file has become shorter")
        return Record(name.decode(), label, content)

    def label(self, index: int) -> int:
        return int(self._entries["label"][index])

    def files(self) -> list[str]:
        return [self._path]

    def rows(self) -> Iterator[tuple[str, int]]:
        """Name and label of every record."""
        for name, label in zip(self._entries["name"], self._entries["label"]):
            yield name.decode(), label


def open_ilsvrc(tars: str, layout: Layout | None = None) -> Source:
    """Opens the directory with the two tars; reads all of their headers first.

    Records are in the order of their names, however the tars are ordered.

    Args:
        tars: the directory.
        layout: what to expect; None for the challenge of 2012.

    Raises:
        UserError: if a tar is missing, cut off, or does not hold exactly what it should.
    """
    if not hasattr(os, "pread"):  # several threads read at their own places in one file
        raise UserError(
            f"ilsvrc:{tars} is not read on this system ({sys.platform}), which has no os.pread: "
            "extract the tars and give folder:DIR"
        )
    layout = layout or official_layout()
    train = os.path.join(os.path.expanduser(tars), TRAIN)
    validation = os.path.join(os.path.expanduser(tars), VALIDATION)
    for path in (train, validation):
        if not os.path.isfile(path):
            raise UserError(
                f"there is no {path}: ilsvrc:{tars} needs {TRAIN} and {VALIDATION}, unextracted, "
                f"from {DOWNLOAD} (you need an account there)"
            )
    progress = tqdm.tqdm(
        total=layout.train_count + len(layout.validation_labels),
        desc=f"indexing ilsvrc:{tars}",
        unit=" images",
        disable=not sys.stderr.isatty(),
    )
    try:
        with progress:
            # The small one first: what is wrong with it is said in seconds.
            validation_split = TarSplit(validation, _index_validation(validation, layout, progress))
            train_split = TarSplit(train, _index_train(train, layout, progress))
    except OSError as error:
        raise UserError(f"ilsvrc:{tars} cannot be read: {error}") from error
    splits = {"train": train_split, "validation": validation_split}
    return Source(
        name=f"ilsvrc:{os.path.realpath(os.path.expanduser(tars))}",
        class_names=layout.wnids,
        splits=splits,
        identity=list_identity(
            layout.wnids, {name: split.rows() for name, split in splits.items()}
        ),
    )


def _index_validation(path: str, layout: Layout, progress: tqdm.tqdm) -> np.ndarray:
    """The entries of the validation tar, in the order of their numbers."""
    labels = layout.validation_labels
    expected = f"expected ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{len(labels):08}.JPEG"
    rows: list[Row] = []
    with open(path, "rb") as file:
        tar = Tar(path, file.fileno(), 0, os.path.getsize(path))
        for name, offset, size in tar.members():
            match = re.fullmatch(r"ILSVRC2012_val_([0-9]{8})\.JPEG", name)
            number = int(match[1]) if match else 0
            if not 1 <= number <= len(labels):
                raise tar.refusal(f"it holds {name}, {expected}")
            rows.append((name.encode(), offset, size, labels[number - 1]))
            progress.update()
    entries = _sorted_entries(tar, rows)
    if len(entries) != len(labels):  # all different and in range, so some are missing
        raise tar.refusal(f"it holds {len(entries):,} of {len(labels):,} images, {expected}")
    return entries


def _index_train(path: str, layout: Layout, progress: tqdm.tqdm) -> np.ndarray:
    """The entries of the training tar, class by class in label order."""
    parts = []
    with open(path, "rb") as file:
        outer = Tar(path, file.fileno(), 0, os.path.getsize(path))
        places = _class_tars(outer, layout)
        for label, wnid in enumerate(layout.wnids):
            tar = Tar(path, file.fileno(), *places[wnid], inner=f"{wnid}.tar")
            rows: list[Row] = []
            for name, offset, size in tar.members():
                if not re.fullmatch(wnid + r"_[0-9]{1,10}\.JPEG", name):
                    raise tar.refusal(f"it holds {name}, expected {wnid}_<number>.JPEG")
                rows.append((f"{wnid}/{name}".encode(), offset, size, label))
            if len(rows) not in layout.per_class:
                low, high = layout.per_class[0], layout.per_class[-1]
                raise tar.refusal(f"it holds {len(rows):,} images, expected {low:,} to {high:,}")
            parts.append(_sorted_entries(tar, rows))
            progress.update(len(rows))
    entries = np.concatenate(parts)
    if len(entries) != layout.train_count:
        raise outer.refusal(f"it holds {len(entries):,} images, expected {layout.train_count:,}")
    return entries


def _class_tars(outer: Tar, layout: Layout) -> dict[str, tuple[int, int]]:
    """Offset and size of each class's tar in the training tar, by WordNet id."""
    places: dict[str, tuple[int, int]] = {}
    for name, offset, size in outer.members():
        wnid = name.removesuffix(".tar")
        if name == wnid or wnid not in layout.wnids:
            raise outer.refusal(f"it holds {name}, expected the tars of {_some(layout.wnids)}")
        if wnid in places:
            raise outer.refusal(f"it holds {name} twice")
        places[wnid] = offset, size
    missing = [wnid for wnid in layout.wnids if wnid not in places]
    if missing:
        raise outer.refusal(f"it lacks the classes {_some(missing)}")
    return places


def _some(wnids: Sequence[str]) -> str:
    return ", ".join(wnids[:5]) + (f" and {len(wnids) - 5} more" if len(wnids) > 5 else "")


def _sorted_entries(tar: Tar, rows: list[Row]) -> np.ndarray:
    """The rows in the order of their names, refused if a name is there twice."""
    rows.sort()
    for (name, *_), (following, *_) in itertools.pairwise(rows):
        if name == following:
            raise tar.refusal(f"it holds {name.decode()} twice")
    return np.array(rows, ENTRY)
