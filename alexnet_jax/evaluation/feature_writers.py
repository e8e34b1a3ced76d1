"""The forms of files that `feature_files` writes: each a class that takes rows as they come."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from alexnet_jax.data import photos
from alexnet_jax.evaluation.features import AT_ONCE, Row

Facts = Mapping[str, Any]  # of a layer, see `features.facts`


class Writer:
    """Writes the features of one layer into a file."""

    def __init__(
        self, file: BinaryIO, shape: tuple[int, ...], facts: Facts, classes: Sequence[str]
    ) -> None:
        """Args:
        file: new, empty.
        shape: of one image's features.
        facts: about them.
        classes: what each label means.
        """
        self.file, self.shape, self.facts, self.classes = file, shape, facts, classes
        self.dtype = np.dtype(facts["dtype"]).newbyteorder("<")

    def add(self, rows: Sequence[Row], values: np.ndarray) -> None:
        """Takes the features (N, *shape) of some more images."""
        raise NotImplementedError

    def finish(self, rows: Sequence[Row]) -> None:
        """Completes the file, now that all rows are known."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what was opened, whether the file is complete or not."""


class Npy(Writer):
    """NumPy's own. The header is written again at the end, when the number of rows is known."""

    def __init__(self, *given: Any) -> None:
        """See `Writer`."""
        super().__init__(*given)
        self._header(0)
        self._start = self.file.tell()

    def add(self, rows: Sequence[Row], values: np.ndarray) -> None:
        """Takes some more."""
        self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def finish(self, rows: Sequence[Row]) -> None:
        """Completes the file."""
        self.file.seek(0)
        self._header(len(rows))
        assert self.file.tell() == self._start
        self.file.flush()

    def _header(self, rows: int) -> None:
        # As long for any number of rows: NumPy leaves room for its digits.
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, about)


class Packed(Writer):
    """What is packed at the end, from memory."""

    def __init__(self, *given: Any) -> None:
        """See `Writer`."""
        super().__init__(*given)
        self._parts: list[np.ndarray] = []

    def add(self, rows: Sequence[Row], values: np.ndarray) -> None:
        """Takes some more."""
        self._parts.append(values)

    def _features(self) -> np.ndarray:
        return np.concatenate(self._parts)


class Npz(Packed):
    """NumPy's archive; its comment says who wrote it."""

    def finish(self, rows: Sequence[Row]) -> None:
        """Packs the file."""
        np.savez(
            self.file,
            features=self._features(),
            files=np.array([row.name for row in rows]),
            **_labels(rows),
            classes=np.array(self.classes),
            facts=np.array(json.dumps(self.facts)),
        )
        comment = self.facts["version"].encode()
        self.file.seek(-2, os.SEEK_END)  # a zip file ends with the length of its comment, and that
        self.file.write(len(comment).to_bytes(2, "little") + comment)


class Mat(Packed):
    """MATLAB's, of version 5: `files` and `classes` are cells, and `facts` is a struct. That comes
    last, where `cli.is_ours` looks for the mark."""

    def finish(self, rows: Sequence[Row]) -> None:
        """Packs the file."""
        from scipy import io as scipy_io

        def cells(names: Iterable[str]) -> np.ndarray:
            return np.array([photos.printable(name) for name in names], object)

        content = {
            "features": self._features(),
            "files": cells(row.name for row in rows),
            **_labels(rows),
            "classes": cells(self.classes),
            "facts": dict(self.facts),
        }
        scipy_io.savemat(self.file, content, long_field_names=True, oned_as="column")


class H5(Writer):
    """HDF5, in chunks of some images. The facts are attributes of the file; they come first, where
    `cli.is_ours` looks for the mark."""

    def __init__(self, *given: Any) -> None:
        """See `Writer`."""
        import h5py

        super().__init__(*given)
        self._disk = _Disk(self.file.name, "r+")
        self._h5 = h5py.File(self._disk, "w")
        self._h5.attrs.update(self.facts)
        room = self.dtype.itemsize * max(1, int(np.prod(self.shape)))
        self._features = self._h5.create_dataset(
            "features",
            (0, *self.shape),
            self.dtype,
            maxshape=(None, *self.shape),
            chunks=(max(1, min(AT_ONCE, 2**20 // room)), *self.shape),
        )

    def add(self, rows: Sequence[Row], values: np.ndarray) -> None:
        """Takes some more."""
        self._features.resize(len(self._features) + len(values), axis=0)
        self._features[-len(values) :] = values
        self._disk.check()

    def finish(self, rows: Sequence[Row]) -> None:
        """Completes the file."""
        import h5py

        text = h5py.string_dtype()
        for name, lines in (("files", [row.name for row in rows]), ("classes", self.classes)):
            self._h5.create_dataset(name, data=[os.fsencode(line) for line in lines], dtype=text)
        for name, labels in _labels(rows).items():
            self._h5[name] = labels
        self._h5.close()
        self._disk.check()

    def close(self) -> None:
        """Closes what may be half written."""
        self._h5.close()
        self._disk.close()


class _Disk(io.FileIO):
    """The file below HDF5, which is not told that a disk is full: it would crash on closing."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all, or keeps the reason why not."""
        rest = memoryview(data)
        while rest and not self.failed:
            with self._kept():
                rest = rest[super().write(rest) :]
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Makes it as long, or keeps the reason why not."""
        with self._kept():
            super().truncate(size)
        return self.tell() if size is None else size

    def check(self) -> None:
        """Raises what was kept."""
        if self.failed:
            raise self.failed

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = self.failed or error


class Csv(Writer):
    """A table for people and their programs, with seven digits."""

    def __init__(self, *given: Any) -> None:
        """See `Writer`."""
        super().__init__(*given)
        self._text = io.TextIOWrapper(self.file, "utf-8", "surrogateescape", newline="")
        self._table = csv.writer(self._text, lineterminator="\n")
        count = int(np.prod(self.shape))
        of_classes = self.facts["stage"] in ("fc8", "prob")
        names = self.classes if of_classes else [str(number) for number in range(count)]
        self._table.writerow(["file", "label", *names])

    def add(self, rows: Sequence[Row], values: np.ndarray) -> None:
        """Writes some more."""
        for (name, label), numbers in zip(rows, values.reshape(len(rows), -1), strict=True):
            called = self.classes[label] if label >= 0 else ""
            self._table.writerow([name, called, *map("{:.7g}".format, numbers.tolist())])

    def finish(self, rows: Sequence[Row]) -> None:
        """Completes the file."""
        self._text.flush()
        self._text.detach()


WRITERS: dict[str, type[Writer]] = {"npy": Npy, "npz": Npz, "h5": H5, "mat": Mat, "csv": Csv}


def _labels(rows: Sequence[Row]) -> dict[str, Any]:
    """Of all rows, if one is known."""
    labels = np.array([row.label for row in rows], np.int32)
    return {"labels": labels} if (labels >= 0).any() else {}
