"""A folder of images: class folders, or lists of files as Caffe and Kaggle have them.

    PATH/<split>/<class>/**/*.jpg    splits 'train', 'val' or 'validation', and 'test', in capitals
                                     or not
    PATH/<class>/*.jpg               no split has class folders or a list: all of it is the split
                                     'train', and a class may be called 'train' or 'test'
    PATH/<split>.txt                 instead of class folders, 'relative/path label' a line, the
                                     path relative to PATH/<split> if there is such a folder, else
                                     to PATH; the label a number from 0 or the name of a class
    PATH/<split>.csv                 the same in two columns, with or without a header, for a split
                                     that has no class folders
    PATH/classes.txt                 the names of the classes, one a line, in the order of their
                                     labels; more words in a line and lines that start with # are
                                     for people

Without classes.txt, labels follow the sorted names of the training split's class folders; or, where
that split is a list, the numbers or the sorted names in it. Links are followed. A test split whose
images have no labels at all is left out, and so is what `image_files` says is no image.

So ILSVRC-2010 is a `train` of class folders, a classes.txt with the synsets in the order of their
ILSVRC2010_ID, and the flat folders `val` and `test` with their val.txt and test.txt. ImageNet as
Kaggle gives it out is taken as it is, LOC_val_solution.csv lying in PATH or up to three folders
above (PATH may be the folder that ILSVRC/Data/CLS-LOC lies in); so is Tiny ImageNet, with its
val/val_annotations.txt.
"""

import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.sources.file_lists import (
    Classes,
    ImageList,
    csv_lines,
    list_identity,
    read_classes,
)
from alexnet_jax.data.sources.image_files import (
    BROKEN,
    KINDS,
    hidden,
    image_files,
    is_folder,
    why_not,
)
from alexnet_jax.data.sources.record import LeftOut, Record, Source
from alexnet_jax.errors import UserError

FOLDER_SPLITS = {
    "train": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test",
}  # fmt: skip
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
KAGGLE_LABELS = "LOC_val_solution.csv"
TINY_LABELS = "val_annotations.txt"


class FileSplit:
    """Image files below a directory.

    Args:
        root: the directory.
        rows: the label of each file, by its path relative to `root`.
    """

    def __init__(self, root: str, rows: Mapping[str, int]):
        self._root = root
        self._names = list(rows)
        self._labels = np.array(list(rows.values()), np.int32)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        path = os.path.join(self._root, name)
        try:
            with open(path, "rb") as file:
                return Record(name, int(self._labels[index]), file.read())
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}") from error

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def name(self, index: int) -> str:
        return self._names[index]

    def files(self) -> list[str]:
        return [os.path.join(self._root, name) for name in self._names]


def open_folder(path: str) -> Source:
    """Opens a folder of one of the forms in this module's docstring.

    Raises:
        UserError: if there is no training split, a class or a label is unknown, or a listed file is
            not there; of a list it names the line.
    """
    root = os.path.realpath(os.path.expanduser(path))
    inner = (os.path.join(root, below) for below in KAGGLE)
    root = next((place for place in inner if os.path.isdir(os.path.join(place, "train"))), root)
    left_out = LeftOut()
    try:
        parts = _find_splits(root, path, left_out)
        classes = _find_classes(root, parts["train"])
        rows = {}
        for split, part in parts.items():
            if not _is_unlabelled(root, split, part, classes, left_out):
                rows[split] = _read_split(root, split, part, classes, left_out)
        identity = list_identity(classes.names, {name: rows[name].items() for name in rows})
    except OSError as error:
        raise UserError(f"folder:{path} cannot be read: {error}") from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"folder:{path}: a file name that is not UTF-8: {error.object.strip()!a}"
        ) from error
    splits = {split: FileSplit(root, files) for split, files in rows.items()}
    return Source(f"folder:{root}", tuple(classes.names), splits, identity, left_out)


class _Level(NamedTuple):
    """What lies in a folder, not below it: folders, images, and what might have been images."""

    folders: list[str]
    images: list[str]
    left_out: LeftOut


class _Part(NamedTuple):
    """Where a split is.

    Attributes:
        folder: relative to the root; '' where the class folders lie in the root itself.
        classes: the folders in it, in order; there may be a list all the same.
        listed: the list of its images, if there is one.
    """

    folder: str
    classes: list[str]
    listed: ImageList | None = None


# --- which splits there are -----------------------------------------------------------------------


def _find_splits(root: str, path: str, left_out: LeftOut) -> dict[str, _Part]:
    """Where each split is; what lies beside them is counted."""
    top = _level(root, "") if os.path.isdir(root) else _Level([], [], LeftOut())
    words = _names_of_splits(root, path, top)
    folders = {split: found.get("", "") for split, found in words.items()}
    lists = any(suffix for found in words.values() for suffix in found)
    if not lists and (classes := _classes_in_root(root, top, [*folders.values()], left_out)):
        return {"train": _Part("", classes)}
    if "train" not in words:
        raise UserError(
            f"folder:{path}: expected {root}/train/<class>/*.jpg, but there is no {root}/train"
            + ("" if words else f", nor is there {root}/<class>/*.jpg")
        )
    parts = {}
    for split, found in words.items():
        folder = folders[split]
        classes = _level(root, folder).folders if folder else []
        parts[split] = _Part(folder, classes, _find_list(root, split, folder, found))
    if all(part.folder for part in parts.values()):  # no list speaks of files elsewhere
        beside = [f"{name}/" for name in top.folders if name not in folders.values()]
        _count([*top.images, *beside], "beside the splits", "", left_out)
    return parts


def _names_of_splits(root: str, path: str, top: _Level) -> dict[str, dict[str, str]]:
    """For each split that has a folder or a list, their names, by '', '.txt' and '.csv'."""
    words: dict[str, dict[str, str]] = {}
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    lists = [name for name in names if name.endswith((".txt", ".csv"))]
    for name, suffix in [*((n, "") for n in top.folders), *((n, n[-4:]) for n in lists)]:
        word = name.removesuffix(suffix).lower()
        if suffix and not os.path.isfile(os.path.join(root, name)):
            continue
        if word in FOLDER_SPLITS and words.setdefault(word, {}).setdefault(suffix, name) != name:
            raise UserError(f"folder:{path} has both {words[word][suffix]} and {name}: keep one")
    splits: dict[str, dict[str, str]] = {}
    for word in (word for word in FOLDER_SPLITS if word in words):
        found = words[word]
        if ".csv" in found and not _is_needed(root, found):
            del found[".csv"]
        if found and splits.setdefault(FOLDER_SPLITS[word], found) is not found:
            first = next(w for w in words if words[w] is splits[FOLDER_SPLITS[word]])
            raise UserError(f"folder:{path} has both {first} and {word}: keep one")
    return splits


def _is_needed(root: str, found: Mapping[str, str]) -> bool:
    """Whether a split's CSV file is its list: not if there is another, or class folders, and not
    where it has no labels."""
    if ".txt" in found or ("" in found and not _is_flat(root, found[""])):
        return False
    first = next(csv_lines(os.path.join(root, found[".csv"])), (0, []))[1]
    return len(first) > 1


def _classes_in_root(root: str, top: _Level, splits: Sequence[str], left_out: LeftOut) -> list[str]:
    """The class folders in the root, if it has no splits: none of the folders that are called so
    has class folders in it, but at least two others have images."""
    if splits and not (
        all(_is_flat(root, folder) for folder in splits)
        and sum(bool(_level(root, name).images) for name in top.folders if name not in splits) > 1
    ):
        return []
    classes = []
    for name in top.folders:
        others = LeftOut()
        if any(True for _ in image_files(os.path.join(root, name), others, f"{name}/")):
            classes.append(name)
        else:
            left_out.merge(others)
    return classes


def _find_list(root: str, split: str, folder: str, found: Mapping[str, str]) -> ImageList | None:
    """The list of a split, if it has one: of its own name, or as the two ImageNets have it."""
    for suffix in (".txt", ".csv"):
        if suffix in found:
            return ImageList(os.path.join(root, found[suffix]), root, folder)
    tiny = os.path.join(root, folder, TINY_LABELS)
    if split == "validation" and os.path.isfile(tiny):
        return ImageList(tiny, root, posixpath.join(folder, "images"))
    if split == "validation" and _is_flat(root, folder):
        for above in (folder, ".", "..", "../..", "../../.."):
            labels = os.path.normpath(os.path.join(root, above, KAGGLE_LABELS))
            if os.path.isfile(labels):
                return ImageList(labels, root, folder)
    return None


def _is_flat(root: str, folder: str) -> bool:
    """Whether a folder has images in it and none in folders, but perhaps in one called `images`."""
    level = _level(root, folder)
    if level.folders == ["images"]:
        return True
    below = (image_files(os.path.join(root, folder, name), LeftOut()) for name in level.folders)
    return bool(level.images) and not any(True for files in below for _ in files)


def _level(root: str, folder: str) -> _Level:
    level = _Level([], [], LeftOut())
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            if is_folder(entry):
                if not hidden(entry.name):
                    level.folders.append(entry.name)
            elif not (reason := why_not(entry)):
                level.images.append(entry.name)
            elif reason in (BROKEN, *KINDS.values()):
                level.left_out.add(reason, posixpath.join(folder, entry.name))
    level.folders.sort()
    return level


def _count(names: Sequence[str], reason: str, folder: str, left_out: LeftOut) -> None:
    if names:
        left_out.add(reason, posixpath.join(folder, min(names)), len(names))


# --- what is in a split ---------------------------------------------------------------------------


def _find_classes(root: str, train: _Part) -> Classes:
    """Finds the classes in classes.txt, else from the training split's list or class folders."""
    named = os.path.join(root, "classes.txt")
    if os.path.isfile(named):
        return read_classes(named, train.listed.labels() if train.listed else {*train.classes})
    if train.listed:
        return train.listed.find_classes()
    return Classes(train.classes, os.path.join(root, train.folder))


def _is_unlabelled(root: str, split: str, part: _Part, classes: Classes, left_out: LeftOut) -> bool:
    """Whether a test split has images and no labels; then they are counted."""
    known = any(name in classes.names for name in part.classes)
    if split != "test" or part.listed or known or len(part.classes) > 1:
        return False
    images = [*image_files(os.path.join(root, part.folder), LeftOut())]
    _count(images, "without labels", part.folder, left_out)
    return bool(images)


def _read_split(
    root: str, split: str, part: _Part, classes: Classes, left_out: LeftOut
) -> dict[str, int]:
    """The label of every image by its path relative to `root`.

    They come in the order of the split's list, or else class by class in the order of the labels,
    each sorted by path.
    """
    if part.listed:
        return part.listed.read(classes, left_out)
    folder, base = part.folder, os.path.join(root, part.folder)
    level = _level(root, folder)
    if BROKEN in level.left_out:  # it may have been a class, and the others would get its label
        raise UserError(
            f"{base} has a link to what is not there: fix or remove it ({level.left_out})"
        )
    unknown = sorted(set(part.classes) - set(classes.names))
    if unknown:
        raise UserError(f"{base} has classes that {classes.origin} lacks: {', '.join(unknown[:5])}")
    missing = sorted(set(classes.names) - set(part.classes))
    if missing and split == "train":
        raise UserError(
            f"{classes.origin} names classes without a folder in {base}: {', '.join(missing[:5])}"
        )
    rows: dict[str, int] = {}
    for label, name in enumerate(classes.names):
        if name not in part.classes:
            continue
        others, below = LeftOut(), posixpath.join(folder, name)
        files = sorted(image_files(os.path.join(base, name), others, f"{below}/"))
        if not folder and all("/" in file.removeprefix("images/") for file in files):
            raise UserError(
                f"expected {root}/train/<class>/*.jpg or {root}/<class>/*.jpg, but {root}/{name} "
                "has images in subfolders only (splits are called train, val and test)"
            )
        if split == "train" and not files:
            raise UserError(
                f"{os.path.join(base, name)} holds no images"
                + f" ({others})" * bool(others)
                + ": fill or remove it"
            )
        left_out.merge(others)
        rows.update((posixpath.join(below, file), label) for file in files)
    if not rows and any(True for _ in image_files(base, LeftOut())):
        raise UserError(
            f"{base} has images, but not in class folders: list them with their labels in "
            f"{base}.txt ('file label' a line) or {base}.csv, or move them to {base}/<class>/"
        )
    left_out.merge(level.left_out)
    _count(level.images, "loose beside class folders", folder, left_out)
    return rows
