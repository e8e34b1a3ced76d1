"""What orbax, tensorstore and asyncio say of damaged files, kept from the user.

At the first damaged array orbax closes its event loop; the reads still under way then report to a
loop that is closed, from threads of tensorstore, until the end of the process. Imports nothing
heavy: every command does.
"""

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any


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


@functools.cache
def ignore_stragglers() -> None:
    """Keeps late tracebacks of reads that orbax gave up from the user, and no others.

    For a command, whose process is its own: the hooks of the interpreter are changed for good.
    """
    show, show_unraisable = sys.excepthook, sys.unraisablehook

    def late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    def excepthook(kind: Any, error: BaseException, trace: Any) -> None:
        if not late(error):
            show(kind, error, trace)

    def unraisablehook(unraisable: Any) -> None:
        if not late(unraisable.exc_value):
            show_unraisable(unraisable)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that nobody asked again
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
