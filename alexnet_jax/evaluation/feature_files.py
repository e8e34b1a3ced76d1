"""Features in files: `.npy`, `.npz`, `.h5`, `.mat` or `.csv`, one for each layer.

FILE.npy holds numbers alone: beside it, FILE.files.txt has the name of every row, and after a tab
the number of its class where that is known, and FILE.npy.json the facts, which say what the numbers
are and where they are from. FILE.npz, FILE.h5 and FILE.mat hold all of that: `features`, `files`,
`labels` (-1: not known), `classes` (their names) and the facts. FILE.csv has a row for each image:
its file, the name of its class, and the numbers under the names of the classes where they are of
them; the facts are in FILE.csv.json. In a folder are one file for each layer, `files.txt` and
`layers.json`.

`.npy`, `.h5` and `.csv` are written as they are computed, in as little memory for many images as
for few; `.npz` and `.mat` are packed in memory. MATLAB shows the axes of .h5 in the opposite order
(C, W, H, N), and those of .mat as they are.
"""

import contextlib
import csv
import importlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from alexnet_jax.data import photos
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import features
from alexnet_jax.evaluation.features import AT_ONCE, Pictures, Row, Values, Wanted
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.files import whole

Facts = Mapping[str, Any]  # of a layer, see `features.facts`
BYTES_OF_MAT = 2**31 - 1  # of an array: MATLAB's limit for files of version 5
DIGITS = 11  # bytes of a number in a table
NEEDS = {"h5": "h5py", "mat": "scipy.io"}  # packages, '.[features]'


class Place(NamedTuple):
    """Where features are written.

    Attributes:
        form: of the files, such as 'npy'.
        features: the file of each layer.
        names: the file of the rows' names, if they are not in the others.
        facts: the file of the facts, if they are not in the others.
        signed: the file that says who wrote all, if the others do not.
    """

    form: str
    features: dict[str, Path]
    names: Path | None = None
    facts: Path | None = None
    signed: Path | None = None

    @property
    def written(self) -> list[Path]:
        """All files."""
        return [*self.features.values(), *(file for file in (self.names, self.facts) if file)]


def place(out: Path, form: str, layers: Sequence[str]) -> Place:
    """Where layers go: one into the file `out`, if it ends in the name of the form, else each into
    a file of its own in the folder `out`.

    Raises:
        ModuleNotFoundError: the form needs a package that is not there.
    """
    if form in NEEDS:
        importlib.import_module(NEEDS[form])
    if out.suffix == f".{form}":
        (layer,) = layers
        facts = Path(f"{out}.json")
        match form:
            case "npy":
                return Place(form, {layer: out}, out.with_suffix(".files.txt"), facts)
            case "csv":
                return Place(form, {layer: out}, None, facts, facts)
        return Place(form, {layer: out})
    files = {layer: out / f"{layer.replace('/', '-')}.{form}" for layer in layers}
    return Place(form, files, out / "files.txt", out / "layers.json", out / "layers.json")


def check_left_over(there: Place) -> None:
    """Refuses to write into a folder where an earlier pass over images would leave files that no
    longer belong to the names beside them.

    Raises:
        UserError: names them.
    """
    if there.facts is None or not there.facts.is_file():
        return
    folder = there.facts.parent
    earlier = {about["file"] for about in json.loads(there.facts.read_bytes()).get("layers", [])}
    kept = sorted(earlier - {path.name for path in there.features.values()})
    kept = [name for name in kept if (folder / name).exists()]
    if kept:
        raise UserError(
            f"{folder} has {', '.join(kept)} of an earlier pass over images: remove that, or give "
            "a new folder"
        )


def write(
    network: TrainedNetwork,
    wanted: Wanted,
    pictures: Pictures,
    there: Place | None,
    *,
    overwrite: bool = False,
    kept: bool = False,
) -> tuple[list[Row], Any]:
    """Computes the features of all pictures, writes them, and says so.

    Args:
        network: which looks at them.
        wanted: of it.
        pictures: to be looked at.
        there: where; None to keep them in memory alone.
        overwrite: replace older files.
        kept: also return those of the first layer.

    Returns:
        The rows, and if asked the features of each, (N, ...): of .npy and .h5 not read yet.

    Raises:
        UserError: it is too much for the disk, the memory or the form, no picture can be used, or
            a number is too large for float16.
    """
    if there:
        check_left_over(there)
    shapes = features.shapes(network, wanted)
    check_room(there, pictures.total, shapes, wanted.dtype)
    batches = features.compute(network, wanted, pictures)
    if there is None:
        rows, values = features.gather(batches)
        return rows, values[wanted.layers[0]]
    facts = {layer: features.facts(network, wanted, layer) for layer in wanted.layers}
    classes = features.titles(network) if there.form == "csv" else network.class_names
    rows = write_batches(there, batches, shapes, facts, classes, overwrite=overwrite)
    for layer, path in there.features.items():
        print(f"{path}: {layer}, {wanted.dtype} {(len(rows), *shapes[layer])}")
    for beside, what in ((there.names, "names of the rows"), (there.facts, "what they are")):
        if beside:
            print(f"{beside}: {what}")
    return rows, read(there.features[wanted.layers[0]]) if kept else None


def write_batches(
    there: Place,
    batches: Iterable[tuple[list[Row], Values]],
    shapes: Mapping[str, tuple[int, ...]],
    facts: Mapping[str, Facts],
    classes: Sequence[str],
    *,
    overwrite: bool = False,
) -> list[Row]:
    """Writes features as they come; every file appears whole or not at all.

    Args:
        there: where.
        batches: rows, and their features (N, *shape) by layer.
        shapes: of one image's features, by layer.
        facts: by layer, see `features.facts`.
        classes: what each label means.
        overwrite: replace older files.

    Returns:
        All rows.
    """
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:

        def new(path: Path) -> BinaryIO:
            return stack.enter_context(whole(path, replace=overwrite))

        stack.enter_context(_made(there.written[0].parent))
        # What is opened first has its name last: the facts come when all the others are there.
        facts_file = new(there.facts) if there.facts else None
        names_file = new(there.names) if there.names else None
        writers = {}
        for layer, path in there.features.items():
            about = {**facts[layer], "shape": [*shapes[layer]]}
            writers[layer] = WRITERS[there.form](new(path), shapes[layer], about, classes)
            stack.callback(writers[layer].close)
        for some, values in batches:
            for layer, writer in writers.items():
                writer.add(some, values[layer])
            rows += some
        for writer in writers.values():
            writer.finish(rows)
        if names_file:
            names_file.writelines(map(_named, rows))
            names_file.flush()  # a full disk shows before any file has its name
        if facts_file:
            abouts = {there.features[layer].name: w.facts for layer, w in writers.items()}
            facts_file.write(_facts_of_all(there, abouts, len(rows), classes))
            facts_file.flush()
    return rows


def read(path: Path) -> Any:
    """The features in a file that `write` made, (N, ...), but for tables: of .npy and .h5 without
    reading them all."""
    match path.suffix:
        case ".npy":
            return np.load(path, mmap_mode="r")
        case ".npz":
            with np.load(path) as found:
                return found["features"]
        case ".h5":
            import h5py

            return h5py.File(path)["features"]
        case _:
            from scipy import io as scipy_io

            return scipy_io.loadmat(path, variable_names=["features"])["features"]


# --- the forms ------------------------------------------------------------------------------------


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


def _named(row: Row) -> bytes:
    """A line of the file of names."""
    name = row.name.replace("\n", "\\n").replace("\t", "\\t")
    return os.fsencode(name + (f"\t{row.label}" if row.label >= 0 else "") + "\n")


def _facts_of_all(
    there: Place, facts: Mapping[str, Facts], images: int, classes: Sequence[str]
) -> bytes:
    """What FILE.npy.json and layers.json say."""
    named = {"names": there.names.name} if there.names else {}
    layers = [{"file": file, **about} for file, about in facts.items()]
    about = {"images": images, **named, "layers": layers, "classes": [*classes]}
    return f"{json.dumps(about, indent=2)}\n".encode()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder, which is gone again if nothing was written into it."""
    new = not folder.is_dir()
    if new:
        folder.mkdir()
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


# --- room -----------------------------------------------------------------------------------------


def memory_of_machine() -> int:
    """Bytes; 0 where the system does not say, as on Windows."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def check_room(
    there: Place | None,
    count: int,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = "float32",
) -> None:
    """Refuses what fits neither on the disk nor into memory, nor into a file of its form.

    Args:
        there: where features go; None if they stay in memory.
        count: of images.
        shapes: of one image's features, by layer.
        dtype: of them.

    Raises:
        UserError: says how much is needed and how much there is.
    """
    form = there.form if there else ""
    room = DIGITS if form == "csv" else np.dtype(dtype).itemsize
    needed = {layer: room * count * int(np.prod(shape)) for layer, shape in shapes.items()}
    total = sum(needed.values())
    each = " + ".join(map(str, shapes.values()))
    size = f"{count:,} x {each} numbers take {total / 1e9:,.1f} GB"
    if form == "mat" and max(needed.values()) > BYTES_OF_MAT:
        raise UserError(f"{size}, and a .mat file holds 2.1 GB: write .h5, which MATLAB reads")
    if form not in ("npy", "h5", "csv"):
        memory = memory_of_machine()
        if memory and 2 * total > memory:
            there_is = f"there are {memory / 1e9:,.1f} GB of memory"
            raise UserError(f"{size}, and packing as much; {there_is}: write .npy or .h5")
    if there is not None:
        parent = next(path for path in there.written[0].absolute().parents if path.exists())
        free = shutil.disk_usage(parent).free
        if 1.01 * total > free:
            raise UserError(f"{size}, but {free / 1e9:,.1f} GB are free for --out")
