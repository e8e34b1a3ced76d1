"""What orbax, tensorstore and asyncio say of damaged files, kept from the user.

At the first damaged array orbax closes its event loop; the reads still under way then report to a
loop that is closed, from threads of tensorstore, until the end of the process. Imports nothing
heavy: every command does.
"""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from alexnet_jax.signals import COMMAND, Stopped


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps pages of tracebacks from the user, and leaves hooks and loggers as they were."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine was never awaited
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        sys.unraisablehook = lambda _: None
        try:
            yield
        finally:
            sys.unraisablehook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Keeps from the user what orbax logs, which is all that it raises, from threads as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def take_hooks(debug: Callable[[], bool], one_line: Callable[[Exception], str]) -> None:
    """Keeps from the user of a command what comes from elsewhere than its main thread's way.

    For a process that is the command's own: the hooks of the interpreter are changed for good.

    Args:
        debug: whether tracebacks and warnings are wanted.
        one_line: what an error, of a thread, says to the user.
    """
    uncaught, unraisable = sys.excepthook, sys.unraisablehook
    in_thread, show_warning = threading.excepthook, warnings.showwarning

    def straggler(error: BaseException | None) -> bool:
        late = ("Event loop is closed", "cannot schedule new futures after")
        return isinstance(error, RuntimeError) and str(error).startswith(late)

    def of_main(kind: Any, error: BaseException, trace: Any) -> None:
        # C code prints what stops it on its way.
        if not (isinstance(error, Stopped) or straggler(error)):
            uncaught(kind, error, trace)

    def ignored(what: Any) -> None:
        if debug():
            unraisable(what)

    def of_thread(what: Any) -> None:
        error = what.exc_value
        if debug():
            in_thread(what)
        elif isinstance(error, Exception) and not (COMMAND.came or straggler(error)):
            print(f"in a thread: {one_line(error)}", file=sys.stderr)

    def warned(*about: Any, **more: Any) -> None:
        if debug() or sys.warnoptions:
            show_warning(*about, **more)

    sys.excepthook, sys.unraisablehook, threading.excepthook = of_main, ignored, of_thread
    warnings.showwarning = warned
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that nobody asked again
