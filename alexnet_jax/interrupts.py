"""What may happen to a run from outside: signals, and a second process in its directory."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.errors import UserError


class Stopped(BaseException):
    """The run was asked to stop; `main` prints the text, exits with 128 + the signal's number.

    Like KeyboardInterrupt: no `except Exception` on the way may take it for something else.
    """

    def __init__(self, signal_number: int, what: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}: {what}")
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list, so that the step under way can end and be saved.

    The second one does not wait. Elsewhere than in the main thread none is collected.
    """
    caught: list[int] = []

    def catch(number: int, frame: object) -> None:
        del frame
        if caught:
            raise Stopped(number, "not saved since the last checkpoint")
        caught.append(number)

    wanted = (signal.SIGTERM, signal.SIGINT)
    try:
        before = {number: signal.signal(number, catch) for number in wanted}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_writable(workdir: Path) -> None:
    """Before hours of preparing data: could the run be written at all? Makes nothing.

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
