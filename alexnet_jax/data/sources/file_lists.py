"""Lists of images and classes: as text files, Caffe's form among them, and what identifies one."""

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from alexnet_jax.errors import UserError


class Classes(NamedTuple):
    """The class names in label order, and the file or folder that says so."""

    names: Sequence[str]
    origin: str


def list_identity(
    class_names: Iterable[str], splits: Mapping[str, Iterable[tuple[str, int]]]
) -> str:
    """SHA-256 of a dataset's list: its class names, and every split's (name, label) in order."""
    digest = hashlib.sha256()
    for name in class_names:
        digest.update(f"{name}\n".encode())
    for split, rows in sorted(splits.items()):
        for name, label in rows:
            digest.update(f"{split}\t{name}\t{label}\n".encode())
    return digest.hexdigest()


def read_classes(path: str) -> Classes:
    """The first word of each line that does not start with #.

    Raises:
        UserError: if a class is there twice.
    """
    names: dict[str, None] = {}
    for number, line in _lines(path):
        name = line.split()[0]
        if name.startswith("#"):
            continue
        if name in names:
            raise UserError(f"{path}:{number}: class {name} is listed twice")
        names[name] = None
    return Classes(list(names), path)


def find_classes(path: str) -> Classes:
    """The classes that a list of images speaks of: its numbers in order, or its sorted names.

    Raises:
        UserError: if a number is left out.
    """
    texts = {line.split()[-1] for _, line in _lines(path)}
    if not all(text.isdecimal() for text in texts):
        return Classes(sorted(texts), path)
    unused = {str(label) for label in range(len(texts))} - texts
    if unused:
        raise UserError(
            f"{path}: no image has label {min(unused, key=int)}, but labels go up to "
            f"{max(texts, key=int)}: they count from 0; name the classes in "
            f"{os.path.join(os.path.dirname(path), 'classes.txt')} if some have no images"
        )
    return Classes([str(label) for label in range(len(texts))], path)


def read_list(path: str, root: str, base: str, classes: Classes) -> dict[str, int]:
    """The images of a list, in its order, with their labels.

    Args:
        path: the list, 'relative/path label' a line, the label a number from 0 or a class name.
        root: the directory that the images' names are relative to.
        base: the directory below `root` that the paths in the list are relative to, or ''.
        classes: what a label may be.

    Raises:
        UserError: for a line that is no such pair, an image that is not there or is there twice, or
            that lies elsewhere, and an unknown label; it names the line.
    """
    by_name = {name: label for label, name in enumerate(classes.names)}
    by_number = {str(label): label for label in range(len(classes.names))}
    rows: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        file, *rest = line.rsplit(maxsplit=1)
        if not rest:
            raise UserError(f"{where}: expected 'relative/path label', found {line!r}")
        text = rest[0]
        meanings = {table[text] for table in (by_name, by_number) if text in table}
        if len(meanings) > 1:
            raise UserError(
                f"{where}: {text} is the number of one class and the name of another: put the "
                f"classes in the order of their numbers in {os.path.join(root, 'classes.txt')}"
            )
        if not meanings:
            raise UserError(
                f"{where}: label {text}: expected 0 to {len(classes.names) - 1} (labels count from "
                f"0) or the name of a class, see {classes.origin}"
            )
        if file.startswith("/") or ".." in file.split("/"):
            raise UserError(f"{where}: {file} leads out of {os.path.join(root, base)}")
        name = posixpath.normpath(posixpath.join(base, file))
        if name in rows:
            raise UserError(f"{where}: {file} is listed twice")
        if not os.path.isfile(os.path.join(root, name)):
            raise UserError(f"{where}: there is no {os.path.join(root, name)}")
        rows[name] = meanings.pop()
    return rows


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
