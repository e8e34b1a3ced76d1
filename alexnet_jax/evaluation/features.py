"""What a layer says of many images, written as it is computed.

Of a split of the run's dataset, or of image files and folders. Beside FILE.npy, `FILE.files.txt`
has the name of every row, and after a tab the number of its class where that is known. FILE.npz
holds `features`, `files` and `labels` (-1: not known).
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tqdm

from alexnet_jax import __version__
from alexnet_jax.data import photos
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.files import whole

AT_ONCE = 32  # images


class Row(NamedTuple):
    """An image: its name, and its label, -1 if that is not known."""

    name: str
    label: int


Batch = tuple[list[Row], np.ndarray]  # images, and their pictures or their features


class Pictures(NamedTuple):
    """Images to be looked at.

    Attributes:
        total: of them; of files, some of which may turn out not to be images.
        batches: all, some at a time, as uint8 (N, S, S, 3).
        one: one of them again, by its number and row.
    """

    total: int
    batches: Iterable[Batch]
    one: Callable[[int, Row], np.ndarray]


def open_dataset(
    network: TrainedNetwork, cache: str | None = None, data_dir: str | None = None
) -> Cache:
    """The dataset of a run, as training opens it.

    Args:
        network: of the run.
        cache: a prepared cache instead of the run's own.
        data_dir: the directory of datasets, if it is not the run's.

    Raises:
        UserError: it is not there or not prepared, or has other classes.
    """
    data = network.config.data
    path, holdout = cache or data.cache, 0.0 if cache else data.holdout
    if path == "none":
        raise UserError(
            "data.cache=none: give --cache=DIR (made by alexnet_jax.prepare), or the images as "
            "files instead of --split"
        )
    dataset = ensure_cache(data.source, network.size, data_dir or data.dir, holdout, path)
    if list(dataset.class_names) != network.class_names:
        raise UserError(
            f"{dataset.path} has other classes than {network.name}: name its images as files "
            "instead of --split"
        )
    return dataset


def of_split(cache: Cache, split: str) -> Pictures:
    """The images of a split.

    Raises:
        UserError: there is no such split.
    """
    splits = [name for name, images in cache.images.items() if len(images)]
    if split not in splits:
        raise UserError(f"--split={split}: the splits of {cache.name} are {', '.join(splits)}")
    images = cache.images[split]

    def batches() -> Iterator[Batch]:
        named = (Row(name, label) for label, _, name in cache.rows(split))
        for start in range(0, len(images), AT_ONCE):
            some = images[start : start + AT_ONCE]
            yield list(islice(named, len(some))), some

    return Pictures(len(images), batches(), lambda number, _: np.asarray(images[number]))


def of_files(network: TrainedNetwork, files: Sequence[str], problems: dict[str, str]) -> Pictures:
    """The images in files. Those that cannot be used are named on stderr, put into `problems`, and
    left out; the folder of a file is its label if it has the name of a class."""
    labels = photos.labels_by_name(network.class_names, network.classes)

    def batches() -> Iterator[Batch]:
        for batch in photos.read_images(files, network.size, AT_ONCE):
            rows, usable = [], []
            for file, found in batch:
                if isinstance(found, str):
                    problems[file] = found
                    skipped(file, found)
                    continue
                label = photos.folder_label(file, labels)
                rows.append(Row(file, -1 if label is None else label))
                usable.append(found)
            if rows:
                yield rows, np.stack(usable)

    return Pictures(len(files), batches(), lambda _, row: network.pictures([row.name])[0])


def skipped(file: str, problem: str) -> None:
    """Says so, above the progress bar."""
    tqdm.tqdm.write(f"skipped {photos.printable(file)}: {problem}", file=sys.stderr)


def compute(network: TrainedNetwork, stage: str, pictures: Pictures) -> Iterator[Batch]:
    """The rows and the features, float32, of some images after the other.

    Raises:
        UserError: none of the images can be used.
    """
    done, start = 0, time.perf_counter()
    with tqdm.tqdm(total=pictures.total, desc="features", unit=" images", disable=None) as progress:
        for rows, some in pictures.batches:
            yield rows, network.look(stage, some, batch_size=AT_ONCE)
            progress.update(len(rows))
            done += len(rows)
    if not done:
        raise UserError(f"none of the {pictures.total:,} files can be used")
    rate = done / (time.perf_counter() - start)
    print(f"{done:,} images, {rate:,.0f} images/s without compiling", file=sys.stderr)


def write(
    network: TrainedNetwork,
    stage: str,
    pictures: Pictures,
    out: Path | None,
    *,
    overwrite: bool = False,
) -> tuple[list[Row], np.ndarray]:
    """Computes a stage of all pictures and writes it to a file, if one is named.

    Args:
        network: which looks at them.
        stage: of the network, see `TrainedNetwork.stage`.
        pictures: to be looked at.
        out: NAME.npy, written as it is computed, or NAME.npz.
        overwrite: replace what is there under that name.

    Returns:
        The rows, and the features of each, float32 (N, ...); of a .npy file memory-mapped.

    Raises:
        UserError: it is too much for the disk or the memory, or no picture can be used.
    """
    black = np.zeros((1, network.size, network.size, 3), np.uint8)
    shape = network.look(stage, black, batch_size=AT_ONCE).shape[1:]
    check_room(out, pictures.total, shape)
    batches = compute(network, stage, pictures)
    if out is not None and out.suffix == ".npy":
        rows = write_npy(out, shape, batches, overwrite=overwrite)
        return rows, np.load(out, mmap_mode="r")
    rows, values = gather(batches)
    if out is not None:
        write_npz(out, rows, values, overwrite=overwrite)
    return rows, values


def gather(batches: Iterable[Batch]) -> tuple[list[Row], np.ndarray]:
    """All at once, in memory."""
    parts = list(batches)
    return [row for rows, _ in parts for row in rows], np.concatenate([part for _, part in parts])


def write_npy(
    path: Path, shape: tuple[int, ...], batches: Iterable[Batch], *, overwrite: bool = False
) -> list[Row]:
    """Writes features as they come, and the names of the rows beside them.

    The header is written again at the end, when the number of rows is known.

    Args:
        path: of the features; `names_file` says where the names go.
        shape: of one image's features.
        batches: rows, and their features (N, *shape) float32.
        overwrite: replace older ones.

    Returns:
        All rows.
    """
    rows: list[Row] = []
    with (
        whole(path, replace=overwrite) as file,
        whole(names_file(path), replace=overwrite) as names,
    ):
        _header(file, (0, *shape))
        start = file.tell()
        for some, values in batches:
            file.write(np.ascontiguousarray(values, "<f4").data)
            for name, label in some:
                line = name.replace("\n", "\\n").replace("\t", "\\t")
                names.write(os.fsencode(line + (f"\t{label}" if label >= 0 else "") + "\n"))
            rows += some
        file.seek(0)
        _header(file, (len(rows), *shape))
        assert file.tell() == start
        file.flush()  # a full disk shows before the names have their name
    return rows


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Writes the header, as long for any number of rows: NumPy leaves room for its digits."""
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)


def write_npz(
    path: Path, rows: Sequence[Row], features: np.ndarray, *, overwrite: bool = False
) -> None:
    """Writes features, files and labels, no labels where none is known; its comment says who."""
    arrays: dict[str, Any] = {"features": features, "files": np.array([row.name for row in rows])}
    labels = np.array([row.label for row in rows], np.int32)
    if (labels >= 0).any():
        arrays["labels"] = labels
    comment = f"alexnet_jax {__version__}".encode()
    with whole(path, replace=overwrite) as file:
        np.savez(file, **arrays)
        file.seek(-2, os.SEEK_END)  # a zip file ends with the length of its comment, and that
        file.write(len(comment).to_bytes(2, "little") + comment)


def names_file(path: Path) -> Path:
    """FILE.files.txt beside FILE.npy."""
    return path.with_suffix(".files.txt")


def written(out: Path) -> tuple[Path, ...]:
    """The files that features in the file `out` are written to."""
    return (out, names_file(out)) if out.suffix == ".npy" else (out,)


def memory_of_machine() -> int:
    """Bytes; 0 where the system does not say, as on Windows."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def check_room(out: Path | None, count: int, shape: tuple[int, ...]) -> None:
    """Refuses what fits neither on the disk nor into memory.

    Raises:
        UserError: says how much is needed and how much there is.
    """
    needed = 4 * count * int(np.prod(shape))
    size = f"{count:,} x {shape} numbers take {needed / 1e9:,.1f} GB"
    if out is None or out.suffix == ".npz":
        memory = memory_of_machine()
        if memory and 2 * needed > memory:
            there = f"there are {memory / 1e9:,.1f} GB of memory"
            raise UserError(f"{size}, and packing as much; {there}: give --out=NAME.npy")
    if out is not None:
        free = shutil.disk_usage(out.absolute().parent).free
        if 1.01 * needed > free:
            raise UserError(f"{size}, but {free / 1e9:,.1f} GB are free for --out")
