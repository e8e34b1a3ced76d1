"""What a layer says of many images: `python -m alexnet_jax.features --workdir=W --out=FILE.npy`.

Of a split of the run's dataset (`--split=test`), or of image files and folders. FILE.npy is written
as it is computed; beside it `FILE.files.txt` has the name of every row, and after a tab the number
of its class where that is known. FILE.npz holds `features`, `files` and `labels` (-1: not known).
`--neighbours` draws the right half of the paper's Figure 4: the images that are nearest by the
Euclidean distance of these features (section 6.1).
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import tqdm
from absl import app, flags

from alexnet_jax import cli, predict
from alexnet_jax.data import files as image_files
from alexnet_jax.errors import UserError

if TYPE_CHECKING:
    from alexnet_jax.data.cache import Cache
    from alexnet_jax.trained import Trained

FLAGS = flags.FLAGS

AT_ONCE = 32  # images


class Row(NamedTuple):
    """An image: its name, and its label, -1 if that is not known."""

    name: str
    label: int


Batch = tuple[list[Row], np.ndarray]  # images, and their pictures or their features


def define_flags() -> None:
    """Defines the flags; not at import, so that others may import this module."""
    flags.DEFINE_string("workdir", None, "Directory of a run, or of converted weights.")
    flags.DEFINE_string("out", None, "FILE.npy, written as it is computed, or FILE.npz.")
    flags.DEFINE_string("layer", "fc7", "fc7, fc7/sum (before the ReLU), conv5/pool, fc8, ...")
    flags.DEFINE_string("split", None, "Instead of files: a split of the run's dataset, as test.")
    flags.DEFINE_string("data_dir", None, "The directory of datasets, if it is not the run's.")
    flags.DEFINE_string("cache", None, "A prepared cache of the dataset, if it is not the run's.")
    flags.DEFINE_string("neighbours", None, "Draw the first images and those nearest to each.")
    flags.DEFINE_integer("queries", 5, "Rows of --neighbours.", lower_bound=1, upper_bound=100)
    flags.DEFINE_bool("best", False, "The best checkpoint by validation error, not the last.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; returns the files and folders."""
    arguments = cli.parse(argv, define_flags, files=True)
    cli.check_workdir(FLAGS.workdir)
    if bool(FLAGS.split) == bool(arguments):
        cli.refuse("give either --split=NAME, such as test, or image files and folders", 2)
    if not (FLAGS.out or FLAGS.neighbours):
        cli.refuse("--out is missing: a file, such as --out=features.npy", 2)
    if FLAGS.out:
        if Path(FLAGS.out).suffix not in (".npy", ".npz"):
            cli.refuse(f"--out={FLAGS.out}: its name has to end in .npy or .npz", 2)
        cli.check_folder("out", FLAGS.out)
    if FLAGS.neighbours:
        cli.check_picture("neighbours", FLAGS.neighbours)
    return arguments


def main(arguments: list[str]) -> int:
    """Does what the flags say; the exit code."""
    with cli.mendable(FLAGS.out or FLAGS.workdir, "no file is half written"):
        return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """Computes, writes and draws; the exit code."""
    out = Path(FLAGS.out) if FLAGS.out else None
    if out is not None:
        check_new(out)
    files, problems = image_files.find_images(arguments)
    for path, problem in problems.items():
        skipped(path, problem)
    if not (files or FLAGS.split):
        return 1
    from alexnet_jax.trained import load

    network = load(FLAGS.workdir, best=FLAGS.best)
    if FLAGS.split:
        pictures = of_split(open_dataset(network), FLAGS.split)
    else:
        pictures = of_files(network, files, problems)
    stage = network.stage(FLAGS.layer)
    shape = look(network, stage, np.zeros((1, network.size, network.size, 3), np.uint8)).shape
    check_room(out, pictures.total, shape[1:])
    batches = compute(network, stage, pictures)
    if out is not None and out.suffix == ".npy":
        rows = write_npy(out, shape[1:], batches)
        features = np.load(out, mmap_mode="r")
        print(f"{out}: {FLAGS.layer}, float32 {features.shape}; names in {names_file(out)}")
    else:
        rows, features = gather(batches)
        if out is not None:
            write_npz(out, rows, features)
            print(f"{out}: {FLAGS.layer}, float32 {features.shape}")
    if FLAGS.neighbours:
        draw(network, rows, features, pictures.one)
        print(f"{FLAGS.neighbours}: {min(FLAGS.queries, len(rows))} images and the nearest to each")
    return 1 if problems else 0


# --- images ---------------------------------------------------------------------------------------


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


def open_dataset(network: "Trained") -> "Cache":
    """The dataset of a run, as `main` opens it, or the one that the flags name.

    Raises:
        UserError: it is not there or not prepared, or has other classes.
    """
    from alexnet_jax.data.cache import ensure_cache

    data = network.config.data
    path, holdout = FLAGS.cache or data.cache, 0.0 if FLAGS.cache else data.holdout
    if path == "none":
        raise UserError(
            "data.cache=none: give --cache=DIR (made by alexnet_jax.prepare), or the images as "
            "files instead of --split"
        )
    cache = ensure_cache(data.source, network.size, FLAGS.data_dir or data.dir, holdout, path)
    if list(cache.class_names) != network.class_names:
        raise UserError(
            f"{cache.path} has other classes than {network.name}: name its images as files instead "
            "of --split"
        )
    return cache


def of_split(cache: "Cache", split: str) -> Pictures:
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


def of_files(network: "Trained", files: Sequence[str], problems: dict[str, str]) -> Pictures:
    """The images in files. Those that cannot be used are named on stderr, put into `problems`, and
    left out; the folder of a file is its label if it has the name of a class."""
    labels = image_files.labels_by_name(network.class_names, network.classes)

    def batches() -> Iterator[Batch]:
        for batch in image_files.read_images(files, network.size, AT_ONCE):
            rows, usable = [], []
            for file, found in batch:
                if isinstance(found, str):
                    problems[file] = found
                    skipped(file, found)
                    continue
                label = image_files.folder_label(file, labels)
                rows.append(Row(file, -1 if label is None else label))
                usable.append(found)
            if rows:
                yield rows, np.stack(usable)

    return Pictures(len(files), batches(), lambda _, row: network.pictures([row.name])[0])


def skipped(file: str, problem: str) -> None:
    """Says so, above the progress bar."""
    tqdm.tqdm.write(f"skipped {image_files.printable(file)}: {problem}", file=sys.stderr)


# --- features -------------------------------------------------------------------------------------


def look(network: "Trained", stage: str, pictures: np.ndarray) -> np.ndarray:
    """A stage's values for at most a batch, in the shape that is compiled for all batches."""
    (values,) = network.batches(stage, predict.filled(pictures, AT_ONCE))
    return np.asarray(values[: len(pictures)], np.float32)


def compute(network: "Trained", stage: str, pictures: Pictures) -> Iterator[Batch]:
    """The rows and the features, float32, of some images after the other.

    Raises:
        UserError: none of the images can be used.
    """
    done, start = 0, time.perf_counter()
    with tqdm.tqdm(total=pictures.total, desc="features", unit=" images", disable=None) as progress:
        for rows, some in pictures.batches:
            yield rows, look(network, stage, some)
            progress.update(len(rows))
            done += len(rows)
    if not done:
        raise UserError(f"none of the {pictures.total:,} files can be used")
    rate = done / (time.perf_counter() - start)
    print(f"{done:,} images, {rate:,.0f} images/s without compiling", file=sys.stderr)


def gather(batches: Iterable[Batch]) -> tuple[list[Row], np.ndarray]:
    """All at once, in memory."""
    parts = list(batches)
    return [row for rows, _ in parts for row in rows], np.concatenate([part for _, part in parts])


def write_npy(path: Path, shape: tuple[int, ...], batches: Iterable[Batch]) -> list[Row]:
    """Writes features as they come, and the names of the rows beside them.

    The header is written again at the end, when the number of rows is known.

    Args:
        path: of the features; `names_file` says where the names go.
        shape: of one image's features.
        batches: rows, and their features (N, *shape) float32.

    Returns:
        All rows.
    """
    rows: list[Row] = []
    with whole(path) as file, whole(names_file(path)) as names:
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
    """As long for any number of rows: NumPy leaves room for its digits."""
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)


def write_npz(path: Path, rows: Sequence[Row], features: np.ndarray) -> None:
    """Writes features, files and labels; no labels where none is known."""
    arrays: dict[str, Any] = {"features": features, "files": np.array([row.name for row in rows])}
    labels = np.array([row.label for row in rows], np.int32)
    if (labels >= 0).any():
        arrays["labels"] = labels
    with whole(path) as file:
        np.savez(file, **arrays)


def names_file(path: Path) -> Path:
    """FILE.files.txt beside FILE.npy."""
    return path.with_suffix(".files.txt")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file that has its name when it is complete, and is not there if it never is."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_new(out: Path) -> None:
    """Nothing is overwritten.

    Raises:
        UserError: one of the files is there.
    """
    for path in (out, names_file(out)) if out.suffix == ".npy" else (out,):
        if path.exists():
            raise UserError(f"{path} is there already: remove it, or give another --out")


def check_room(out: Path | None, count: int, shape: tuple[int, ...]) -> None:
    """Refuses what fits neither on the disk nor into memory.

    Raises:
        UserError: says how much is needed and how much there is.
    """
    needed = 4 * count * int(np.prod(shape))
    size = f"{count:,} x {shape} numbers take {needed / 1e9:,.1f} GB"
    if out is None or out.suffix == ".npz":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if 2 * needed > memory:
            there = f"there are {memory / 1e9:,.1f} GB of memory"
            raise UserError(f"{size}, and packing as much; {there}: give --out=NAME.npy")
    if out is not None:
        free = shutil.disk_usage(out.absolute().parent).free
        if 1.01 * needed > free:
            raise UserError(f"{size}, but {free / 1e9:,.1f} GB are free for --out")


# --- neighbours -----------------------------------------------------------------------------------


def draw(
    network: "Trained",
    rows: Sequence[Row],
    features: np.ndarray,
    picture: Callable[[int, Row], np.ndarray],
) -> None:
    """Draws the first images with the nearest of all others.

    Raises:
        UserError: there are no others.
    """
    from alexnet_jax import panels

    if len(rows) < 2:
        raise UserError("a single image has no neighbours: name more images")

    def show(number: int) -> panels.Shown:
        row = rows[number]
        known = row.label >= 0
        name = network.classes[row.label] if known else image_files.printable(Path(row.name).name)
        return panels.Shown(picture(number, row), name, row.label if known else None)

    found = panels.neighbours(features, min(FLAGS.queries, len(rows)), show)
    panels.draw_neighbours(found, FLAGS.neighbours)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
