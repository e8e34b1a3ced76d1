"""SIGTERM and SIGINT: how a program is asked to stop.

A library leaves signals alone, but for training's own stop (`stop_signals`). A process that is a
command of this package takes them from its first moment on (`COMMAND`). The first signal raises
`Stopped` in the main thread, so that files are closed or removed in order; but only in this
package's own code. A handler may run inside any library, and some in C++ call Python (for an
import, to compare keys) where an exception would end the process. A process that is still alive
`SECONDS` later, or at the second signal, is ended by a thread, since C code that takes its time
lets no handler run, and a library may swallow any exception. One sentence says what is kept.
"""

import contextlib
import opcode
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

WANTED = (signal.SIGTERM, signal.SIGINT)
OWN = (__package__, "experiments", "__main__")
NOP = opcode.opmap["NOP"]
WAITS = ("threading", "queue", "selectors", "subprocess", "socket", "ssl")  # where others wait
SECONDS = 1.4  # that a stop may take; with the end of the process it is less than two
LATER = 0.05  # seconds until a stop that was swallowed is tried again


class Stopped(BaseException):
    """The run was asked to stop; `main` prints the text, exits with 128 + the signal's number.

    Like KeyboardInterrupt: no `except Exception` on the way may take it for something else.
    """

    def __init__(self, signal_number: int, what: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}: {what}")
        self.signal_number = signal_number


class Command:
    """What SIGTERM and SIGINT do to this process, if it is a command.

    Attributes:
        kept: what a stop at this moment leaves.
        again: what the sentence ends with, such as '; give the same command again to resume'.
        output: the file descriptor where it is said.
        came: the first signal, 0 before.
        watched: whether a thread sees to it that the process ends.
        said: whether the one sentence about how it ends has been said.
        code: the exit code that goes with it.
    """

    def __init__(self) -> None:
        self.kept, self.again, self.output, self.came = "nothing was done", "", 1, 0
        self._taken = self.watched = self._patient = self._over = False
        self._raised: object = None  # a weak reference to what was raised
        self._due = False  # it will be raised as soon as a library has returned
        self._echoes = 0  # signals of this process to itself that the thread has yet to see
        self.said, self.code = False, 0

    def take(self) -> None:
        """Takes the signals over. Nothing has begun yet, and a signal ends the process at once."""
        if not self._taken:
            self._taken = True
            for number in WANTED:
                signal.signal(number, self._handle)

    def watch(self) -> None:
        """From now on a signal raises `Stopped`, and a thread watches what becomes of it."""
        import threading

        if not self._taken or self.watched:
            return
        source, sink = os.pipe()
        if os.name == "posix":
            os.set_blocking(sink, False)
        signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(source,), name="signals", daemon=True).start()
        self.watched = True

    def finish(self) -> None:
        """The command is over: signals change nothing while the interpreter ends."""
        if self._taken:
            self._over = True
            for number in WANTED:
                signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """A stop takes the time it needs in here, such as that of a save; the second does not."""
        before, self._patient = self._patient, True
        try:
            yield
        finally:
            self._patient = before
            if self.came and not before:
                self._hurry()

    def claim(self, code: int) -> bool:
        """Whether the sentence is still to be said; by who asks, whose exit code it is then."""
        if self.said:
            return False
        self.said, self.code = True, code
        return True

    def _say(self, text: str) -> None:
        """Says the sentence, but not to who does not read."""
        import select

        with contextlib.suppress(OSError, ValueError):
            output = (sys.stdout if self.output == 1 else sys.stderr).fileno()  # may be overheard
            if os.name != "posix" or select.select([], [output], [], 0)[1]:
                os.write(output, f"{text}\n".encode())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, as soon as that comes to it."""
        if not self.watched:
            self._end(number, "")
        if self._raised is None and not self._due:
            self.came = self.came or number
            own = frame
            while own is not None and not _is_own(own):
                own = own.f_back
            if frame is own or frame is None or frame.f_globals.get("__name__") in WAITS:
                self._raise()
            elif own is not None:
                self._due, own.f_trace = True, self._at
                sys.settrace(lambda *_: None)

    def _at(self, frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        """A trace function: raises `Stopped` in its frame, on the line after the call it was in."""
        del argument
        if event != "line" or frame.f_code.co_code[frame.f_lasti] != NOP:
            self._raise()
        return self._at  # the NOP of a `try` is in no `try`: what is around it would not be heard

    def _raise(self) -> None:
        import weakref

        sys.settrace(None)
        self._due = False
        stopped = Stopped(self.came, self.kept)
        self._raised = weakref.ref(stopped, lambda _: self._swallowed())
        try:
            raise stopped
        finally:
            del stopped  # or it would be held by its own traceback

    def _swallowed(self) -> None:
        """What was raised is gone, and if nothing was said nobody has heard of it."""
        import threading

        if not (self.said or self._over):
            self._raised = None
            _later(LATER, self._echo, threading.main_thread().ident or 0)

    def _echo(self, main_thread: int) -> None:
        self._echoes += 1
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main_thread, self.came)
        else:  # Windows
            import _thread

            _thread.interrupt_main(signal.Signals(self.came))

    def _watch(self, source: int) -> None:
        """Reads the byte that the system's own handler writes for every signal."""
        seen = False
        while True:
            (number,) = os.read(source, 1)
            if number not in WANTED or self._over:
                continue
            if self._echoes:
                self._echoes -= 1
            elif seen:
                self._end(number, " at once")
            else:
                seen, self.came = True, number
                if not self._patient:
                    self._hurry()

    def _hurry(self) -> None:
        _later(SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self._patient:  # by now
            self._end(self.came, " at once")

    def _end(self, number: int, how: str) -> None:
        name = signal.Signals(number).name
        line = "\n" if how and os.isatty(2) else ""  # a progress bar may stand there
        if self.claim(128 + number):
            self._say(f"{line}stopped by {name}{how}: {self.kept}{self.again}")
        os._exit(128 + number)


def _is_own(frame: FrameType) -> bool:
    """Whether code of this program runs there, and none that stands for an operator."""
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in OWN and not frame.f_code.co_name.startswith("__")


def _later(seconds: float, function: Callable[..., object], *arguments: object) -> None:
    import threading

    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()


COMMAND = Command()


def is_command() -> bool:
    """Whether this process was started as one: `python -m alexnet_jax...`, or `alexnet-jax`."""
    given = iter(sys.orig_argv[1:])
    for argument in given:
        if argument == "-m":
            return next(given, "").partition(".")[0] == __package__
        if not argument.startswith("-"):
            return os.path.basename(argument).startswith("alexnet-jax")
    return False


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list, so that the step under way can end and be saved.

    The second one does not wait. Elsewhere than in the main thread none is collected.
    """
    caught: list[int] = []
    unsaved = "not saved since the last checkpoint"

    def catch(number: int, frame: object) -> None:
        del frame
        if caught and not COMMAND.watched:  # which ends here, then
            raise Stopped(number, unsaved)
        caught.append(number)

    try:
        before = {number: signal.signal(number, catch) for number in WANTED}
    except ValueError:  # not the main thread
        before = {}
    kept, COMMAND.kept = COMMAND.kept, unsaved
    try:
        with COMMAND.patient():
            yield caught
    finally:
        COMMAND.kept = kept
        for number, handler in before.items():
            signal.signal(number, handler)
