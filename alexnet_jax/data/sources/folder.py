"""A folder of images: class folders, or lists of files as Caffe has them.

    PATH/<split>/<class>/**/*.jpg    splits 'train', 'val' or 'validation', and 'test'
    PATH/<class>/*.jpg               no split has a folder or a list: all of it is the split 'train'
    PATH/<split>.txt                 instead of class folders, 'relative/path label' a line, the
                                     path relative to PATH/<split> if there is such a folder, else
                                     to PATH; the label a number from 0 or the name of a class
    PATH/classes.txt                 the names of the classes, one a line, in the order of their
                                     labels; more words in a line and lines that start with # are
                                     for people

Without classes.txt, labels follow the sorted names of the training split's class folders; or, where
that split is a list, the numbers or the sorted names in it.

So ILSVRC-2010 is a `train` of class folders, a classes.txt with the synsets in the order of their
ILSVRC2010_ID, and the flat folders `val` and `test` with their val.txt and test.txt.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping

import numpy as np

from alexnet_jax.data.sources.file_lists import (
    Classes,
    find_classes,
    list_identity,
    read_classes,
    read_list,
)
from alexnet_jax.data.sources.record import Record, Source
from alexnet_jax.errors import UserError

FOLDER_SPLITS = {
    "train": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test",
}  # fmt: skip
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".avif",
})  # fmt: skip


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
    try:
        folders = _find_splits(root, path)
        classes = _find_classes(root, folders["train"])
        rows = {
            split: _read_split(root, split, folder, classes) for split, folder in folders.items()
        }
        identity = list_identity(classes.names, {name: rows[name].items() for name in rows})
    except OSError as error:
        raise UserError(f"folder:{path} cannot be read: {error}") from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"folder:{path}: a file name that is not UTF-8: {error.object.strip()!a}"
        ) from error
    splits = {split: FileSplit(root, files) for split, files in rows.items()}
    return Source(f"folder:{root}", tuple(classes.names), splits, identity)


def _find_splits(root: str, path: str) -> dict[str, str]:
    """The folder of each split, relative to `root`; '' where the class folders lie in it."""
    folders: dict[str, str] = {}
    for folder, split in FOLDER_SPLITS.items():
        if os.path.isdir(os.path.join(root, folder)) or _is_listed(root, folder):
            if split in folders:
                raise UserError(f"folder:{path} has both {folders[split]} and {folder}: keep one")
            folders[split] = folder
    if not folders and os.path.isdir(root) and _class_folders(root, ""):
        return {"train": ""}
    if "train" not in folders:
        raise UserError(
            f"folder:{path}: expected {root}/train/<class>/*.jpg, but there is no {root}/train"
            + ("" if folders else f", nor is there {root}/<class>/*.jpg")
        )
    return folders


def _find_classes(root: str, train: str) -> Classes:
    """Finds the classes in classes.txt, else from the training split's list or class folders."""
    if os.path.isfile(os.path.join(root, "classes.txt")):
        return read_classes(os.path.join(root, "classes.txt"))
    if _is_listed(root, train):
        return find_classes(_list_file(root, train))
    return Classes(_class_folders(root, train), os.path.join(root, train))


def _read_split(root: str, split: str, folder: str, classes: Classes) -> dict[str, int]:
    """The label of every image by its path relative to `root`.

    They come in the order of the split's list, or else class by class in the order of the labels,
    each sorted by path.
    """
    base = os.path.join(root, folder)
    if _is_listed(root, folder):
        paths_from = folder if os.path.isdir(base) else ""
        return read_list(_list_file(root, folder), root, paths_from, classes)
    found = set(_class_folders(root, folder))
    unknown = sorted(found - set(classes.names))
    if unknown:
        raise UserError(f"{base} has classes that {classes.origin} lacks: {', '.join(unknown[:5])}")
    missing = sorted(set(classes.names) - found)
    if missing and split == "train":
        raise UserError(
            f"{classes.origin} names classes without a folder in {base}: {', '.join(missing[:5])}"
        )
    rows: dict[str, int] = {}
    for label, name in enumerate(classes.names):
        files = sorted(_image_files(os.path.join(base, name))) if name in found else []
        if not folder and all("/" in file for file in files):
            raise UserError(
                f"expected {root}/train/<class>/*.jpg or {root}/<class>/*.jpg, but {root}/{name} "
                "has images in subfolders only"
            )
        if split == "train" and not files:
            raise UserError(f"{os.path.join(base, name)} holds no images: fill or remove it")
        rows.update((posixpath.join(folder, name, file), label) for file in files)
    if not rows and any(True for _ in _image_files(base)):
        raise UserError(
            f"{base} has images, but not in class folders: list them with their labels in "
            f"{_list_file(root, folder)}, or move them to {base}/<class>/"
        )
    return rows


def _is_listed(root: str, folder: str) -> bool:
    return bool(folder) and os.path.isfile(_list_file(root, folder))


def _list_file(root: str, folder: str) -> str:
    return os.path.join(root, f"{folder}.txt")


def _class_folders(root: str, folder: str) -> list[str]:
    """The sorted subfolders of a split; where it is the root itself, only those with images."""
    with os.scandir(os.path.join(root, folder)) as entries:
        found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(
        entry.name for entry in found if folder or any(True for _ in _image_files(entry.path))
    )


def _image_files(path: str) -> Iterator[str]:
    """Image files below a directory, relative to it, in no order; hidden ones are left out."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from (f"{entry.name}/{file}" for file in _image_files(entry.path))
            # A link to nowhere counts: reading it then names it, where it would be left out here.
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and (
                entry.is_file() or entry.is_symlink()
            ):
                yield entry.name
