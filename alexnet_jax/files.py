"""Files and directories that others use too: locks, and files that are written whole or not."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from alexnet_jax.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt  # Windows
except ImportError:
    msvcrt = None  # type: ignore[assignment]

# The network that comes with the package: a directory of weights, as `alexnet_jax.convert` makes.
INCLUDED = Path(__file__).parent / "included"

# What this process writes where a file system has no locks. The time tells it from an earlier
# process of the same number.
OURSELVES = f"{socket.gethostname()} {os.getpid()} {time.time()}"


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

    Raises:
        UserError: another process is training there, or nothing can be written there.
    """
    with exclusive_lock(
        workdir / ".lock",
        busy=f"another process is training in {workdir}: wait for it, or give another --workdir",
        unwritable=f"--workdir={workdir} cannot be written ({{}}): give another",
    ):
        yield


@contextlib.contextmanager
def exclusive_lock(
    path: str | Path,
    *,
    busy: str = "",
    unwritable: str = "cannot write {path} ({}): choose a directory you can write "
    "(--config.data.dir, or --out of alexnet_jax.prepare)",
) -> Iterator[None]:
    """Holds the lock that is the file `path`, made if it is not there.

    The lock goes with the process, however it ends. The file stays behind, empty: removing it would
    let two processes lock two files of one name. Where the file system has no locks, a second file,
    `path`.owner, says who holds it.

    Args:
        path: the file; its directory is made.
        busy: the message where another process holds the lock; if empty, waits for it.
        unwritable: the message where the file cannot be made, with {} for the system's reason.

    Raises:
        UserError: with one of the two messages, or where nobody can tell whether a process on
            another machine still holds a lock of a file system that has none.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
        except OSError as error:
            raise UserError(unwritable.format(error.strerror, path=path)) from error
        said = False
        while not _try_lock(file, path, stack):
            if busy:
                raise UserError(busy)
            if not said:
                print(f"waiting for another process to let go of {path}", flush=True)
            said = True
            time.sleep(0.2)
        yield


def _try_lock(file: BinaryIO, path: Path, stack: contextlib.ExitStack) -> bool:
    """Whether the lock is now ours, until the stack closes."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            raise OSError("there are no locks")
    except (BlockingIOError, PermissionError):  # Windows says the latter
        return False
    except OSError:  # a file system, or a system, without locks
        owner = path.with_name(f"{path.name}.owner")
        if not _try_own(owner):
            return False
        stack.callback(owner.unlink, missing_ok=True)
    return True


def _try_own(owner: Path) -> bool:
    """Whether the file `owner` now names this process."""
    try:
        with owner.open("x") as file:
            file.write(OURSELVES)
        return True
    except FileExistsError:
        pass
    try:
        text = owner.read_text()
    except FileNotFoundError:  # let go of just now
        return _try_own(owner)
    host, _, rest = text.partition(" ")
    number = int(rest.split()[0]) if rest.split() else 0
    if text == OURSELVES or (host == socket.gethostname() and _runs(number)):
        return False
    if host == socket.gethostname():
        owner.unlink(missing_ok=True)  # of a process that was killed
        return _try_own(owner)
    raise UserError(
        f"{owner} says that process {number or '?'} on {host or 'another machine'} is at work "
        "here, and this file system has no locks to ask: delete that file if it is not"
    )


def _runs(number: int) -> bool:
    """Whether another process of this machine has that number, or may have it."""
    if number in (0, os.getpid()):
        return False
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


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
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # of a full disk the system does not say where
        raise


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root on, `~` expanded: what it means from any directory."""
    return Path(os.path.abspath(os.path.expanduser(path)))
