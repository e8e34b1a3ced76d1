"""Makes a `cache`: decodes and fits every image once, on all cores, with whatever befalls it.

Everything is written beside the cache's place, in PATH.partial, whose files only grow; every few
seconds `progress.npz` there records how long each of them is whole. A preparation that was killed
resumes from that record. When all is written the directory gets its name: a cache is complete or
not there.
"""

import collections
import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import tqdm

from alexnet_jax import files
from alexnet_jax.data import decoding
from alexnet_jax.data.cache import journal, places
from alexnet_jax.data.cache.earlier import Earlier
from alexnet_jax.data.cache.journal import GrowingFiles, Position
from alexnet_jax.data.cache.request import Request
from alexnet_jax.data.cache.statistics import Sums
from alexnet_jax.data.cache.store import (
    COLUMNS,
    FORMAT,
    HEADER,
    Cache,
    fingerprint,
    open_cache,
    partial_path,
    read_rows,
)
from alexnet_jax.data.sources.record import Source
from alexnet_jax.data.threads import cores, one_opencv_thread
from alexnet_jax.errors import UserError

CHUNK = 32  # images a worker takes at a time
RECORD_SECONDS = 10.0  # of work that a kill may cost

OnBadImage = Literal["fail", "skip"]
T = TypeVar("T")
R = TypeVar("R")


def make_cache(
    source: Source,
    size: int,
    path: str,
    holdout: float = 0,
    workers: int | None = None,
    on_bad_image: OnBadImage = "fail",
    *,
    overwrite: bool = False,
    data_dir: str | None = None,
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
        overwrite: whether a cache at `path` that is another gives way to this one, once this one is
            complete.
        data_dir: TFDS's directory, which is only recorded.

    Raises:
        UserError: for too few classes or images, a full disk, or a bad image. What was done by
            then is kept.
    """
    path = os.path.realpath(os.path.expanduser(path))
    request = Request(source, size, path, holdout, data_dir)
    request.check()
    partial = pathlib.Path(partial_path(path))
    lock = f"{partial}.lock"
    with files.exclusive_lock(lock):
        if places.is_made(request, overwrite):
            places.clean(request)  # after one that was killed at its end
            _unlink(lock)
            return open_cache(path)
        try:
            position, facts = places.start(request)
            _check_skipped(request, partial, on_bad_image)
            position.save(partial, facts)
            earlier = Earlier(places.earlier(request), request)
            position = _write(request, position, facts, earlier, workers, on_bad_image)
            _complete(request, position, partial, facts)
            places.finish(request)
        except OSError as error:
            raise UserError(
                f"cannot write {partial} ({error}): fix that and give the same command "
                "again; what was done is kept"
            ) from error
        _unlink(lock)  # whoever waits for it finds the cache complete
    return open_cache(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _check_skipped(request: Request, partial: pathlib.Path, on_bad_image: OnBadImage) -> None:
    """What was left out so far is not in the files: 'fail' comes too late for it."""
    listed = partial / "skipped.csv"
    skipped = len(listed.read_bytes().splitlines()) - 1 if listed.exists() else 0
    if on_bad_image == "fail" and skipped > 0:
        raise UserError(
            f"{partial} has left out {skipped} images already (see {listed}): resume by "
            f"`{request.command('--on_bad_image=skip')}`, or delete {partial} to start over"
        )


# --- the work -------------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    """What a worker made of a few images."""

    images: np.ndarray  # uint8 (n, S, S, 3), the good ones
    rows: list[tuple[int, str, str]]  # label, CRC-32 as hex digits, name
    bad: list[tuple[str, str]]  # name, reason
    sums: Sums


class _Bad(Exception):
    """An image that cannot be used: its name, the reason."""


def _write(
    request: Request,
    position: Position,
    facts: dict[str, Any],
    earlier: Earlier,
    workers: int | None,
    on_bad_image: OnBadImage,
) -> Position:
    """Takes the growing files from a position to their end."""
    directory = pathlib.Path(partial_path(request.path))
    files = GrowingFiles(directory, position.lengths)
    saved = time.monotonic()

    def save() -> None:
        files.sync()  # or a power cut leaves a record of more than there is
        position.save(directory, facts)

    try:
        for name in request.plan:
            done = position.read.get(name, 0)
            for chunk in _chunks(request, name, done, earlier, workers):
                if chunk.bad and on_bad_image == "fail":
                    bad, reason = chunk.bad[0]
                    raise UserError(
                        f"{request.source.name}: {bad} of the split {name} cannot be used "
                        f"({reason}): fix it or remove it, and give the same command again; or "
                        "leave such images out, and have them listed, by "
                        f"`{request.command('--on_bad_image=skip')}`. What was done is kept"
                    )
                position = _append(files, position, name, chunk)
                if time.monotonic() - saved > RECORD_SECONDS:
                    save()
                    saved = time.monotonic()
        save()
    except BaseException:
        with contextlib.suppress(OSError):  # of a full disk; the record before this one holds
            save()
        raise
    finally:
        files.close()
    return position


def _append(files: GrowingFiles, position: Position, split: str, chunk: _Chunk) -> Position:
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
    request: Request, name: str, done: int, earlier: Earlier, workers: int | None
) -> Iterator[_Chunk]:
    """Decodes and fits images on all workers; yields the chunks in order.

    Args:
        request: what is made.
        name: the split of the cache.
        done: how many of its images are there already.
        earlier: what need not be decoded.
        workers: threads; None for all cores.
    """
    source, size = request.source, request.size
    split, indices = request.plan[name]
    of = next(known for known, candidate in source.splits.items() if candidate is split)
    classes = len(source.class_names)

    def load(index: int) -> tuple[str, int, np.ndarray]:
        found = earlier.get(of, index)
        if found:
            return found
        try:
            record = split[index]
        except OSError as error:
            raise _Bad(f"image {index}", str(error)) from error
        if not 0 <= record.label < classes:
            raise UserError(
                f"{record.name} has the label {record.label}, but there are {classes} classes "
                f"(0 to {classes - 1})"
            )
        try:
            return record.name, record.label, decoding.load(record.content, size)
        except decoding.BadImage as error:
            raise _Bad(record.name, str(error)) from error

    def make(start: int) -> _Chunk:
        fitted = np.empty((min(CHUNK, len(indices) - start), size, size, 3), np.uint8)
        rows: list[tuple[int, str, str]] = []
        bad: list[tuple[str, str]] = []
        for index in indices[start : start + CHUNK].tolist():
            try:
                image_name, label, fitted[len(rows)] = load(index)
            except _Bad as error:
                bad.append((error.args[0], error.args[1]))
                continue
            crc32 = zlib.crc32(fitted[len(rows)])
            rows.append((label, f"{crc32:08x}", image_name))
        fitted = fitted[: len(rows)]
        return _Chunk(fitted, rows, bad, Sums.of(fitted))

    progress = tqdm.tqdm(
        total=len(indices),
        initial=done,
        desc=f"{name} at {size}x{size}",
        unit=" images",
        mininterval=0.1 if sys.stderr.isatty() else 60,  # in a log, a line a minute
        delay=0 if sys.stderr.isatty() else 60,
    )
    with progress, one_opencv_thread(), futures.ThreadPoolExecutor(workers or cores()) as pool:
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
    """Yields what `pool.map` does, but never more than `ahead` results wait in memory."""
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


# --- the end --------------------------------------------------------------------------------------


def _complete(
    request: Request, position: Position, directory: pathlib.Path, facts: dict[str, Any]
) -> None:
    """Adds to the grown files what could only be known at the end."""
    source, plan, size, sums = request.source, request.plan, request.size, position.sums
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
        **facts,
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
        if path.is_file():
            with path.open("r+b") as written:
                os.fsync(written.fileno())
    journal.sync_directory(directory)


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
