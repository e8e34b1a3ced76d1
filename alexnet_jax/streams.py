"""stdout and stderr of a command: where they are closed, full or not read, the work goes on."""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO


class Lasting(io.TextIOWrapper):
    """A stream of the process whose writes do not fail.

    The errors are caught here and not in the raw file below: an exception of a signal that comes up
    there, after the write, would let the buffer between them write the same again.

    Attributes:
        lost: the error after which nothing was written any more.
    """

    lost: OSError | None = None

    def write(self, text: str) -> int:
        """Writes, or forgets, like all that comes after it."""
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Writes what waits, or forgets it."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        _to_nowhere(self.fileno())


def _to_nowhere(descriptor: int) -> None:
    """Lets a file descriptor, of C code as well, end in the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)


def last() -> None:
    """Makes stdout and stderr last; what no encoding has is written as an escape sequence.

    A stream that is closed is opened, towards nowhere: the next file that is opened would take its
    place otherwise, and have in it what C code says on stderr.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
    sys.stdout, sys.stderr = _lasting(1, sys.stdout, False), _lasting(2, sys.stderr, True)


def _lasting(descriptor: int, stream: TextIO | None, by_lines: bool) -> TextIO:
    if stream is not None and (os.name == "nt" and stream.isatty()):
        return stream  # a console of Windows has letters, not bytes
    return Lasting(
        io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=by_lines or os.isatty(descriptor),
        write_through=getattr(stream, "write_through", False),
    )


def silence() -> None:
    """Lets what Python prints on stdout end nowhere: another process says the same."""
    sys.stdout.flush()
    _to_nowhere(sys.stdout.fileno())


def overhear(hear: Callable[[bytes], bool]) -> None:
    """Gives what C code prints to a function, line by line; what Python prints goes its old way.

    Args:
        hear: whether the line is to be shown, on stderr.
    """
    sys.stdout.flush()
    out, real = os.dup(1), os.dup(2)
    sys.stdout, sys.stderr = _lasting(out, sys.stdout, False), _lasting(real, sys.stderr, True)
    source, sink = os.pipe()
    for descriptor in (1, 2):
        os.dup2(sink, descriptor)
    os.close(sink)

    def listen() -> None:
        with open(source, "rb") as lines:
            for line in lines:
                if hear(line):
                    with contextlib.suppress(OSError):  # nobody reads it
                        os.write(real, line)

    threading.Thread(target=listen, name="stderr", daemon=True).start()


def slow_abort() -> None:
    """Gives who overhears C code time for its last words, which an abort follows at once.

    The handler is C's own `sleep`, since Python's would only run after it; its argument is then the
    signal's number, six seconds.
    """
    import ctypes

    if os.name == "posix":
        c = ctypes.CDLL(None)
        c.signal.argtypes, c.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        c.signal(signal.SIGABRT, ctypes.cast(c.sleep, ctypes.c_void_p))


def lost(stream: TextIO) -> OSError | None:
    """The error that ended what is written to a stream, if one did."""
    return stream.lost if isinstance(stream, Lasting) else None


def unread(error: OSError) -> bool:
    """Whether the reader has gone, as `| head` does; else there is no room, or the like."""
    return error.errno in (errno.EPIPE, errno.EINVAL)  # the second one on Windows
