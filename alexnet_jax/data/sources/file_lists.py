"""Lists of images and classes, as Caffe has them or as CSV files, and what identifies one."""

import csv
import hashlib
import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from alexnet_jax.data.sources.image_files import image_files
from alexnet_jax.data.sources.record import LeftOut
from alexnet_jax.errors import UserError

# What the columns of a CSV file with images and labels are called where it has a header, without
# regard to case, blanks and underscores.
FILE_COLUMNS = frozenset({
    "file", "filename", "filepath", "path", "image", "imageid", "imagename", "imagepath", "img",
    "imgname", "imgpath", "id", "name", "photo", "picture",
})  # fmt: skip
LABEL_COLUMNS = frozenset({
    "label", "labels", "labelname", "class", "classid", "classname", "category", "categoryid",
    "target", "species", "breed", "wnid", "synset", "predictionstring",
})  # fmt: skip


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


def read_classes(path: str, known: Collection[str]) -> Classes:
    """The class that each line begins with, but for lines that start with #.

    It ends at a tab, or with the name of a known class, or else with the first word.

    Args:
        path: the file.
        known: names of classes, which may have blanks in them.

    Raises:
        UserError: if a class is there twice.
    """
    names: dict[str, None] = {}
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        line = line.split("\t")[0].strip()
        starts = [line, *(line[: blank.start()] for blank in _blanks(line))]
        name = next((start for start in starts if start in known), line.split()[0])
        if name in names:
            raise UserError(f"{path}:{number}: class {name} is listed twice")
        names[name] = None
    return Classes(list(names), path)


class _Row(NamedTuple):
    """A line of a list: its number, the file and the label as written, and the file's own name."""

    number: int
    file: str
    label: str
    found: str | None


class ImageList:
    """A list of images with their labels.

    A text file has 'relative/path label' a line, with a tab between them or blanks (then the path
    ends where there is such a file, so either may have blanks in it); more columns after tabs are
    not read. A CSV file has them in its first two columns, or in those that its header names. An
    image may be listed without its suffix, and without the folder `images` that it lies in.

    Args:
        path: of the list.
        root: the directory that the images' names are relative to.
        base: the directory below `root` that the paths in the list are relative to, or ''.
    """

    def __init__(self, path: str, root: str, base: str):
        self.path, self._root, self._base = path, root, base

    def labels(self) -> set[str]:
        """Every label, as written."""
        return {row.label for row in self._rows()}

    def find_classes(self) -> Classes:
        """The classes that it speaks of: its numbers in order, or its sorted names.

        Raises:
            UserError: if a number is left out.
        """
        texts = self.labels()
        if not all(text.isdecimal() for text in texts):
            return Classes(sorted(texts), self.path)
        unused = {str(label) for label in range(len(texts))} - texts
        if unused:
            raise UserError(
                f"{self.path}: no image has label {min(unused, key=int)}, but labels go up to "
                f"{max(texts, key=int)}: they count from 0; name the classes in "
                f"{os.path.join(os.path.dirname(self.path), 'classes.txt')} if some have no images"
            )
        return Classes([str(label) for label in range(len(texts))], self.path)

    def read(self, classes: Classes, left_out: LeftOut) -> dict[str, int]:
        """The images, in the list's order, with their labels.

        Args:
            classes: what a label may be: a class name, or a number from 0.
            left_out: gets the images of the list's own folder that it does not name.

        Raises:
            UserError: for a line that is no such pair, an image that is not there or is there
                twice, or that lies elsewhere, and an unknown label; it names the line.
        """
        by_name = {name: label for label, name in enumerate(classes.names)}
        by_number = {str(label): label for label in range(len(classes.names))}
        base = os.path.join(self._root, self._base)
        rows: dict[str, int] = {}
        for number, file, text, found in self._rows():
            where = f"{self.path}:{number}"
            meanings = {table[text] for table in (by_name, by_number) if text in table}
            if len(meanings) > 1:
                raise UserError(
                    f"{where}: {text} is the number of one class and the name of another: put the "
                    "classes in the order of their numbers in "
                    f"{os.path.join(self._root, 'classes.txt')}"
                )
            if not meanings:
                raise UserError(
                    f"{where}: label {text}: expected 0 to {len(classes.names) - 1} (labels count "
                    f"from 0) or the name of a class, see {classes.origin}"
                )
            if file.startswith("/") or ".." in file.split("/"):
                raise UserError(f"{where}: {file} leads out of {base}")
            if found is None:
                raise UserError(f"{where}: there is no {os.path.join(base, file)}")
            if found in rows:
                raise UserError(f"{where}: {file} is listed twice")
            rows[found] = meanings.pop()
        if self._base:
            for image in image_files(base, left_out, f"{self._base}/"):
                if (name := f"{self._base}/{image}") not in rows:
                    left_out.add(f"not in {os.path.basename(self.path)}", name)
        return rows

    def _rows(self) -> Iterator[_Row]:
        if self.path.endswith(".csv"):
            yield from self._csv_rows()
            return
        for number, line in _lines(self.path):
            if "\t" in line:
                cells = [cell.strip() for cell in line.split("\t")]
                pairs = [(cells[0], cells[1])]
            else:
                pairs = [(line[: b.start()], line[b.end() :]) for b in _blanks(line)]
            if not pairs:
                raise UserError(
                    f"{self.path}:{number}: expected 'relative/path label', found {line!r}"
                )
            rows = (_Row(number, *pair, self._find(pair[0])) for pair in pairs)
            yield next((row for row in rows if row.found), _Row(number, *pairs[0], None))

    def _csv_rows(self) -> Iterator[_Row]:
        columns = None
        for number, cells in csv_lines(self.path):
            if columns is None:
                header = not any(self._find(cell) for cell in cells if cell)
                columns = _columns(cells) if header else None
                if columns:
                    continue
                columns = _Columns(0, 1)
            if len(cells) <= max(columns[:2]):
                raise UserError(
                    f"{self.path}:{number}: expected a file and a label, found {','.join(cells)!r}"
                )
            file, label = cells[columns.file], cells[columns.label]
            if columns.boxes:  # the class before its boxes; nothing where there are none
                label = (label.split() or [""])[0]
            yield _Row(number, file, label, self._find(file))

    def _find(self, file: str) -> str | None:
        """The name of a listed image, relative to the root, or None."""
        name = posixpath.normpath(posixpath.join(self._base, file))
        if os.path.isfile(os.path.join(self._root, name)):
            return name
        return self._shortened.get(posixpath.normpath(file))

    @cached_property
    def _shortened(self) -> dict[str, str | None]:
        """The names of images by what a list may call them; None where that could be several."""
        names: dict[str, str | None] = {}
        for image in image_files(os.path.join(self._root, self._base), LeftOut()):
            name = posixpath.join(self._base, image)
            inner = image.removeprefix("images/")
            for short in {os.path.splitext(image)[0], inner, os.path.splitext(inner)[0]}:
                names[short] = None if names.get(short, name) != name else name
        return names


def csv_lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, with the numbers of their last lines from 1."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = re.sub(r'"[^"]*"', "", file.readline())
            file.seek(0)
            delimiter = next((mark for mark in ",;\t" if mark in first), ",")
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error


class _Columns(NamedTuple):
    """Where a CSV file has files and labels; `boxes`: a label's class is followed by boxes."""

    file: int
    label: int
    boxes: bool = False


def _columns(cells: Sequence[str]) -> _Columns | None:
    """The columns that a header names; None if it is none."""
    words = [re.sub(r"[\s_-]", "", cell.lower()) for cell in cells]
    labels = [place for place, word in enumerate(words) if word in LABEL_COLUMNS]
    files = [place for place, word in enumerate(words) if word in FILE_COLUMNS]
    if not labels and not files:
        return None
    file = files[0] if files else int(labels[0] == 0)
    label = labels[0] if labels else int(file == 0)
    return _Columns(file, label, words[label:][:1] == ["predictionstring"])


def _blanks(line: str) -> list[re.Match[str]]:
    """Where a line has blanks, the last ones first."""
    return list(re.finditer(r"\s+", line))[::-1]


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
