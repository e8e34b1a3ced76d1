"""Makes a `cache`: decodes and fits every image once, on all cores, with whatever befalls it.

Everything is written beside the cache's place, in PATH.partial, whose files only grow; every few
seconds `progress.npz` there records how long each of them is whole. A preparation that was killed
goes on from that record. When all is written the directory gets its name: a cache is complete or
not there.
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
import tqdm

from alexnet_jax.data import images, sources
from alexnet_jax.data.cache import (
    COLUMNS,
    FORMAT,
    Cache,
    fingerprint,
    open_cache,
    partial_path,
    read_rows,
)
from alexnet_jax.data.records import Source, Split
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import UserError

HOLDOUT_SEED = 2012  # which images are held out is a fact of the dataset, not of a run's seed
CHUNK = 32  # images a worker takes at a time
RECORD_SECONDS = 10.0  # of work that a kill may cost
HEADER = 128  # bytes of a .npy file before its data

OnBadImage = Literal["fail", "skip"]
Plan = dict[str, tuple[Split, np.ndarray]]  # split name: the split to read, which of its images
T = TypeVar("T")
R = TypeVar("R")


def make_cache(
    source: Source,
    size: int,
    path: str,
    holdout: float = 0,
    workers: int | None = None,
    on_bad_image: OnBadImage = "fail",
) -> Cache:
    """Writes a source's cache to the directory `path`, with the statistics of its training split.

    Args:
        source: the dataset.
        size: S, the side of the cached images in pixels.
        path: the directory to make; where another process makes it first, theirs is opened.
        holdout: N training images (below 1: this share of them), always the same ones, become the
            split 'validation' and count in no statistic.
        workers: threads (Pillow and OpenCV release the GIL); None for all cores. The files are the
            same for any number.
        on_bad_image: 'fail' stops at an image that cannot be used; 'skip' leaves it out and lists
            it in skipped.csv.

    Raises:
        UserError: for too few classes or images, a full disk, or a bad image. What was done by
            then is kept.
    """
    path = os.path.realpath(os.path.expanduser(path))
    plan = plan_splits(source, size, holdout)
    settings = settings_of(source, size, holdout)
    parent, name = os.path.split(path)
    with sources.exclusive_lock(os.path.join(parent, f".{name}.lock")):
        if is_made(path, settings):
            pathlib.Path(path, "progress.npz").unlink(missing_ok=True)  # of one killed at its end
            return open_cache(path)
        partial = pathlib.Path(partial_path(path))
        position = _recorded(partial, settings)
        if position is None:
            shutil.rmtree(partial, ignore_errors=True)
            check_disk(footprint(source, size), parent)
            position = Position({}, {}, Sums.zero(size))
        else:
            check_disk(footprint(source, size) - sum(position.lengths.values()), parent)
            _check_skipped(partial, on_bad_image)
        try:
            partial.mkdir(exist_ok=True)
            position.save(partial, settings)
            position = _write(source, plan, partial, position, settings, workers, on_bad_image)
            _complete(source, plan, position, partial, settings)
            os.rename(partial, path)
            os.unlink(os.path.join(path, "progress.npz"))
        except OSError as error:
            raise UserError(
                f"cannot go on with {partial} ({error}): mend that and give the same command "
                "again; what was done is kept"
            ) from error
    return open_cache(path)


def settings_of(source: Source, size: int, holdout: float) -> dict[str, Any]:
    """What makes one preparation another than another, in plain values."""
    plan = plan_splits(source, size, holdout)
    return {
        "source": source.name,
        "list": hashlib.sha256(source.identity.encode()).hexdigest(),
        "size": size,
        "holdout": float(holdout),
        "images": {split: len(indices) for split, (_, indices) in plan.items()},
    }


def is_made(path: str, settings: Mapping[str, Any]) -> bool:
    """Whether there is a cache at `path`, of these settings.

    Raises:
        UserError: there is something else, or a cache could not be put there.
    """
    if os.path.ismount(path):  # a directory cannot be moved onto it
        raise UserError(f"{path} is where a disk is mounted: give a directory on it, {path}/cache")
    if not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path)):
        return False
    if not os.path.isfile(os.path.join(path, "meta.json")):
        raise UserError(f"{path} is there and is no cache: give a new or an empty directory")
    open_cache(path)  # or it is damaged
    with open(os.path.join(path, "meta.json"), encoding="utf-8") as file:
        made = json.load(file)["settings"]
    if made != settings:
        raise UserError(
            f"{path} is the cache of {_described(made)}; asked for is {_described(settings)}: give "
            "another directory"
        )
    return True


def _described(settings: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{split} {count:,}" for split, count in settings["images"].items())
    return (
        f"{settings['source']} ({counts}; list {settings['list'][:8]}) at {settings['size']} pixels"
        + f" with holdout={settings['holdout']:g}" * bool(settings["holdout"])
    )


def _check_skipped(partial: pathlib.Path, on_bad_image: OnBadImage) -> None:
    """What was left out so far is not in the files: 'fail' comes too late for it."""
    listed = partial / "skipped.csv"
    skipped = len(listed.read_bytes().splitlines()) - 1 if listed.exists() else 0
    if on_bad_image == "fail" and skipped > 0:
        raise UserError(
            f"{partial} has left out {skipped} images already (see {listed}): go on with "
            f"--on_bad_image=skip, or delete {partial} to start anew"
        )


def cores() -> int:
    """The cores this process may use; a container's share is not the machine's count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_splits(source: Source, size: int, holdout: float) -> Plan:
    """Says which source image goes where, and refuses what cannot be trained on."""
    if size < 1:
        raise UserError(f"image size {size}: expected a positive number of pixels")
    if len(source.class_names) < 2:
        raise UserError(
            f"{source.name} has {len(source.class_names)} class(es); at least two are needed"
            f" (found: {', '.join(source.class_names) or 'none'})"
        )
    if len(source.splits.get("train", ())) == 0:
        raise UserError(f"{source.name} has no training images (splits: {sorted(source.splits)})")
    plan = {name: (split, np.arange(len(split))) for name, split in source.splits.items()}
    if not math.isfinite(holdout):
        raise UserError(f"holdout={holdout}: expected a number of images, or a share")
    if holdout:
        if "validation" in plan:
            raise UserError(
                f"{source.name} has a validation split of its own: set holdout={holdout:g} to 0"
            )
        split, indices = plan["train"]
        count = round(holdout * len(indices)) if 0 < holdout < 1 else int(holdout)
        if not 0 < count < len(indices) or (holdout > 1 and count != holdout):
            raise UserError(
                f"holdout={holdout:g}: expected 1 to {len(indices) - 1}, one less than the "
                "training images, or a share between 0 and 1"
            )
        order = np.random.Generator(np.random.Philox(HOLDOUT_SEED)).permutation(len(indices))
        plan["validation"] = split, np.sort(order[:count])
        plan["train"] = split, np.sort(order[count:])
    return plan


# --- what it will cost ----------------------------------------------------------------------------


class Cost(NamedTuple):
    """What a preparation takes.

    Attributes:
        images: of all splits.
        bytes: on the disk.
        threads: that do the work.
        images_per_second: measured on a few dozen of them.
    """

    images: int
    bytes: int
    threads: int
    images_per_second: float

    def __str__(self) -> str:
        seconds = self.images / self.images_per_second
        long = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"
        return (
            f"{self.images:,} images, {_size(self.bytes)}, about "
            f"{long if seconds > 90 else 'a minute'} on {self.threads} cores"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count > 1e9 else f"{count / 1e6:,.1f} MB"


def footprint(source: Source, size: int) -> int:
    """Bytes of the source's cache."""
    return sum(len(split) for split in source.splits.values()) * size * size * 3


def estimate(source: Source, size: int, workers: int | None = None) -> Cost:
    """Measures a few images, spread over the training split."""
    split, threads = source.splits["train"], workers or cores()
    chosen = np.linspace(0, len(split) - 1, min(len(split), 32 * threads), dtype=int)

    def load(index: int) -> None:
        with contextlib.suppress(images.BadImage, OSError):
            images.load(split[index].content, size)

    with _one_opencv_thread(), futures.ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(load, chosen.tolist()))
        seconds = time.perf_counter() - start
    count = sum(len(split) for split in source.splits.values())
    return Cost(count, footprint(source, size), threads, len(chosen) / seconds)


def check_disk(needed: int, directory: str) -> None:
    """Refuses what will not fit.

    Raises:
        UserError: says how much is needed, how much is there, and what else can be done.
    """
    free = shutil.disk_usage(directory).free
    if needed * 1.01 > free:  # a little over, for labels and the file system's own use
        raise UserError(
            f"the cache needs {_size(needed)} in {directory}, where {_size(free)} are "
            "free: choose a larger disk (--config.data.dir, or --out of alexnet_jax.prepare), or a "
            "smaller image size"
        )


# --- the growing files ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a preparation has come.

    Attributes:
        read: by split, the images that were looked at, in the order of the plan.
        lengths: by file name, the bytes that are whole.
        sums: of the training images among them.
    """

    read: dict[str, int]
    lengths: dict[str, int]
    sums: Sums

    def save(self, directory: pathlib.Path, settings: dict[str, Any]) -> None:
        """Records it, all at once or not at all.

        A record that says more than the files hold is not believed by the next start.
        """
        facts = json.dumps({"settings": settings, "read": self.read, "lengths": self.lengths})
        partial = directory / "progress.tmp"
        with partial.open("wb") as file:
            np.savez(
                file,
                facts=np.array(facts),
                count=self.sums.count,
                image=self.sums.image,
                products=self.sums.products,
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / "progress.npz")


def _recorded(directory: pathlib.Path, settings: dict[str, Any]) -> Position | None:
    """The position that was saved; None if there is none, or the files are not what it says.

    Raises:
        UserError: the files are those of another preparation.
    """
    try:
        with (directory / "progress.npz").open("rb") as file, np.load(file) as saved:
            facts = json.loads(str(saved["facts"]))
            sums = Sums(int(saved["count"]), saved["image"], saved["products"])
        whole = all(
            (directory / name).stat().st_size >= length for name, length in facts["lengths"].items()
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # never recorded, or damaged
    if facts["settings"] != settings:
        raise UserError(
            f"{directory} is part of another preparation, {_described(facts['settings'])}; asked "
            f"for is {_described(settings)}: delete it, or give another place"
        )
    return Position(facts["read"], facts["lengths"], sums) if whole else None


class _Files:
    """Files that grow from a position on; what an interrupted append left behind it is cut off."""

    def __init__(self, directory: pathlib.Path, lengths: dict[str, int]):
        self._directory = directory
        self._lengths = lengths
        self._open: dict[str, io.FileIO] = {}

    def append(self, name: str, content: Any) -> int:
        """Returns the file's new length in bytes."""
        if name not in self._open:
            (self._directory / name).touch()
            file = self._open[name] = (self._directory / name).open("r+b", buffering=0)
            file.truncate(self._lengths.get(name, 0))
            file.seek(0, os.SEEK_END)
        file = self._open[name]
        rest = memoryview(content).cast("B") if len(content) else b""
        while len(rest):  # megabytes at once cost up to ten times more, where Linux has to put
            rest = rest[file.write(rest[: 1 << 18]) :]  # large pages together for them
        return file.tell()

    def sync(self) -> None:
        for file in self._open.values():
            os.fdatasync(file.fileno())

    def close(self) -> None:
        for file in self._open.values():
            file.close()


# --- the work -------------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    """What a worker made of a few images."""

    images: np.ndarray  # uint8 (n, S, S, 3), the good ones
    rows: list[tuple[int, str, str]]  # label, CRC-32 as hex digits, name
    bad: list[tuple[str, str]]  # name, reason
    sums: Sums


def _write(
    source: Source,
    plan: Plan,
    directory: pathlib.Path,
    position: Position,
    settings: dict[str, Any],
    workers: int | None,
    on_bad_image: OnBadImage,
) -> Position:
    """Takes the growing files from a position to their end."""
    size = settings["size"]
    files = _Files(directory, position.lengths)
    saved = time.monotonic()
    try:
        for name, (split, indices) in plan.items():
            done = position.read.get(name, 0)
            label = f"{source.name} {name} at {size}x{size}"
            classes = len(source.class_names)
            for chunk in _chunks(split, indices, done, size, classes, workers, label):
                if chunk.bad and on_bad_image == "fail":
                    bad, reason = chunk.bad[0]
                    raise UserError(
                        f"{source.name}: {bad} of the split {name} cannot be used ({reason}): mend "
                        "it and give the same command again, or leave such images out and have "
                        "them listed by `python -m alexnet_jax.prepare ... --on_bad_image=skip` (a "
                        "list with one image less starts anew)"
                    )
                position = _append(files, position, name, chunk)
                if time.monotonic() - saved > RECORD_SECONDS:
                    files.sync()
                    position.save(directory, settings)
                    saved = time.monotonic()
        position.save(directory, settings)
    except BaseException:
        with contextlib.suppress(OSError):  # of a full disk; the record before this one holds
            position.save(directory, settings)
        raise
    finally:
        files.close()
    return position


def _append(files: _Files, position: Position, split: str, chunk: _Chunk) -> Position:
    """Writes a chunk; the position after it."""
    images_file, rows_file = f"{split}.images.npy", f"{split}.csv"
    lengths = dict(position.lengths)
    if images_file not in lengths:  # the count, 0 as yet, is filled in at the end
        files.append(images_file, _npy_header((0, *chunk.images.shape[1:])))
        files.append(rows_file, _csv([COLUMNS]))
    lengths[images_file] = files.append(images_file, chunk.images)
    lengths[rows_file] = files.append(rows_file, _csv(chunk.rows))
    header = [("split", "name", "reason")] if "skipped.csv" not in lengths else []
    skipped = _csv(header + [(split, *bad) for bad in chunk.bad])
    lengths["skipped.csv"] = files.append("skipped.csv", skipped)
    read = position.read.get(split, 0) + len(chunk.rows) + len(chunk.bad)
    sums = position.sums
    if split == "train":  # the paper: "over the training set"; validation images stay unseen
        sums = sums + chunk.sums
    return Position(position.read | {split: read}, lengths, sums)


def _chunks(
    split: Split,
    indices: np.ndarray,
    done: int,
    size: int,
    classes: int,
    workers: int | None,
    description: str,
) -> Iterator[_Chunk]:
    """Decodes and fits images on all workers; yields the chunks in order."""

    def make(start: int) -> _Chunk:
        fitted = np.empty((min(CHUNK, len(indices) - start), size, size, 3), np.uint8)
        rows: list[tuple[int, str, str]] = []
        bad: list[tuple[str, str]] = []
        for index in indices[start : start + CHUNK].tolist():
            try:
                record = split[index]
            except OSError as error:
                bad.append((f"image {index}", str(error)))
                continue
            if not 0 <= record.label < classes:
                raise UserError(
                    f"{record.name} has the label {record.label}, but there are {classes} classes "
                    f"(0 to {classes - 1})"
                )
            try:
                image = images.load(record.content, size)
            except images.BadImage as error:
                bad.append((record.name, str(error)))
                continue
            fitted[len(rows)] = image
            crc32 = zlib.crc32(fitted[len(rows)])
            rows.append((record.label, f"{crc32:08x}", record.name))
        fitted = fitted[: len(rows)]
        return _Chunk(fitted, rows, bad, Sums.of(fitted))

    progress = tqdm.tqdm(
        total=len(indices),
        initial=done,
        desc=description,
        unit=" images",
        mininterval=0.1 if sys.stderr.isatty() else 60,  # in a log, a line a minute
        delay=0 if sys.stderr.isatty() else 60,
    )
    with progress, _one_opencv_thread(), futures.ThreadPoolExecutor(workers or cores()) as pool:
        starts = range(done, len(indices), CHUNK)
        skipped = 0
        for chunk in _in_order(pool, make, starts, ahead=2 * (workers or cores())):
            progress.update(len(chunk.rows) + len(chunk.bad))
            skipped += len(chunk.bad)
            if skipped:
                progress.set_postfix(bad=skipped, refresh=False)
            yield chunk


def _in_order(
    pool: futures.Executor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """As `pool.map`, but never more than `ahead` results wait in memory."""
    waiting: collections.deque[futures.Future[R]] = collections.deque()
    rest = iter(items)
    try:
        waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
            yield result
    except BaseException:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C waits for what nobody will use
        raise


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """The workers are the parallelism; OpenCV's own threads would fight them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


# --- the end --------------------------------------------------------------------------------------


def _complete(
    source: Source,
    plan: Plan,
    position: Position,
    directory: pathlib.Path,
    settings: dict[str, Any],
) -> None:
    """Adds to the grown files what could only be known at the end."""
    size, sums = settings["size"], position.sums
    if sums.count == 0:
        raise UserError(f"{source.name}: none of the training images can be used")
    counts, checksums = {}, {}
    for name in plan:
        rows = directory / f"{name}.csv"
        labels = [label for label, _, _ in read_rows(str(rows))] if rows.exists() else []
        if not labels:  # nothing in it, or nothing that can be used
            rows.unlink(missing_ok=True)
            (directory / f"{name}.images.npy").unlink(missing_ok=True)
            continue
        counts[name] = len(labels)
        checksums[rows.name] = hashlib.sha256(rows.read_bytes()).hexdigest()
        np.save(directory / f"{name}.labels.npy", np.array(labels, np.int32))
        with (directory / f"{name}.images.npy").open("r+b") as file:
            file.write(_npy_header((len(labels), size, size, 3)))
    np.save(directory / "mean_image.npy", sums.mean_image())
    skipped = directory / "skipped.csv"
    checksums[skipped.name] = hashlib.sha256(skipped.read_bytes()).hexdigest()
    eigenvalues, eigenvectors = sums.principal_components()
    meta = {
        "format": FORMAT,
        "name": source.name,
        "size": size,
        "settings": settings,
        "counts": counts,
        "skipped": {name: len(plan[name][1]) - counts.get(name, 0) for name in plan},
        "checksums": checksums,
        "covariance": sums.covariance().tolist(),
        "eigenvalues": eigenvalues.tolist(),
        "eigenvectors": eigenvectors.tolist(),
        "class_names": list(source.class_names),
    }
    meta["fingerprint"] = fingerprint(meta, sums.mean_image())
    text = json.dumps(meta, indent=1, ensure_ascii=False)
    (directory / "meta.json").write_text(text, encoding="utf-8")
    for path in directory.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The start of a .npy file of uint8, of the same length for any count of images."""
    file = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    assert len(file.getvalue()) == HEADER, file.getvalue()
    return file.getvalue()


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    file = io.StringIO(newline="")
    # Texts in quotation marks: a name may hold whatever ends a line.
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return file.getvalue().encode("utf-8", "surrogateescape")
