"""Files and directories that others use too: locks, and files that are written whole or not."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from alexnet_jax.errors import UserError


def check_writable(workdir: Path) -> None:
    """Refuses a directory that cannot be written, before hours of preparing data; makes nothing.

    Raises:
        UserError: it could not.
    """
    there = next(
        path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists()
    )
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(
            f"--workdir={workdir} cannot be written ({there} is "
            f"{'read-only' if there.is_dir() else 'no directory'}): give another"
        )


@contextlib.contextmanager
def sole_owner(workdir: Path) -> Iterator[None]:
    """Makes a run's directory, and keeps a second training process out of it.

    The lock goes with the process, however it ends.

    Raises:
        UserError: another process is training there, or nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((workdir / ".lock").open("a"))
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be written ({error.strerror}): give another"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {workdir}: wait for it, or give another --workdir"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


@contextlib.contextmanager
def exclusive_lock(path: str) -> Iterator[None]:
    """Holds an advisory lock on the file `path`, made if it is not there; waits for others.

    The file stays behind, empty: removing it would let two processes lock two files of one name.

    Raises:
        UserError: if the file cannot be made or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = stack.enter_context(open(path, "a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process to let go of {path}", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file closes, however we end
        except OSError as error:
            raise UserError(
                f"cannot write and lock {path} ({error.strerror}): "
                "choose a directory you can write (--config.data.dir, or --out of "
                "alexnet_jax.prepare)"
            ) from error
        yield


@contextlib.contextmanager
def whole(path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A new file that has its name when it is complete and on the disk, and else is not there.

    Args:
        path: the file.
        replace: an older one of that name.

    Raises:
        FileExistsError: there is one, by now.
    """
    # A name that is nobody's: `path`.partial may be a file of the user's.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{time.time_ns()}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not replace and os.path.lexists(path):
            raise FileExistsError(17, "is there by now, and is kept", str(path))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
