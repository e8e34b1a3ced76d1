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
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import features
from alexnet_jax.evaluation.feature_places import Place, check_left_over
from alexnet_jax.evaluation.feature_writers import WRITERS, Facts
from alexnet_jax.evaluation.features import Pictures, Row, Values, Wanted
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.files import whole

BYTES_OF_MAT = 2**31 - 1  # of an array: MATLAB's limit for files of version 5
DIGITS = 11  # bytes of a number in a table


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
