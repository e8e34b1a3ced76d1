"""How a command ends: in one line and with an exit code, whatever ends it."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from alexnet_jax import streams
from alexnet_jax.errors import UserError
from alexnet_jax.run import hosts, noise
from alexnet_jax.signals import COMMAND, Stopped

UNREAD = 128 + 13  # the exit code of who writes for nobody: SIGPIPE's, which Windows lacks
PACKAGES = {  # that are installed under another name than they are imported by
    "PIL": "Pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
}

shown = argparse.Namespace(debug=False, unheard=False)  # tracebacks; that stdout is lost


def refuse(message: str, code: int = 1) -> NoReturn:
    """Ends the program with one line on stderr. Code 2 is for the command itself."""
    if not hosts.said_by_another(message, code):
        if hosts.several():
            COMMAND.claim(code)  # that the others have gone as well is no news
        print(f"error: {hosts.name()}{' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command as this process: no signal, closed pipe or error ends it otherwise than in one
    line and with an exit code.

    Args:
        main: of the command, without arguments.
    """
    COMMAND.take()
    streams.last()
    noise.take_hooks(lambda: shown.debug, lambda error: one_line(error)[0])
    code: Any = 1
    broken = True
    try:
        with errors_in_one_line("nothing was done"):
            code = main()
        broken = False
        COMMAND.kept = "its own work was done"  # while JAX waits for the other processes
    except SystemExit as ended:
        code = ended.code
    except Stopped:
        pass  # it came when all was done
    finally:
        COMMAND.finish()
        if COMMAND.said and COMMAND.came:
            code = 128 + COMMAND.came
        # A library that was interrupted may complain or crash on Python's own way out, and in JAX's
        # the processes would wait for each other.
        if code and (broken or COMMAND.said or hosts.several()):
            hosts.leave(code if isinstance(code, int) else 1)
    sys.exit(code)


@contextlib.contextmanager
def errors_in_one_line(
    kept: str = "nothing was written", *, again: str = "", answers: bool = False
) -> Iterator[None]:
    """Makes one line, and an exit code, of whatever ends a command; with `--debug` a traceback too.

    Args:
        kept: what a stop by a signal leaves.
        again: what is to be said after that, such as how to resume.
        answers: what the command prints is what it was asked for: that nobody reads it is said by
            the exit code, and messages go to stderr. Else files are, and the command has done it.
    """
    before = COMMAND.kept, COMMAND.again, COMMAND.output
    COMMAND.kept, COMMAND.again, COMMAND.output = kept, again, 2 if answers else 1
    COMMAND.watch()
    try:
        yield
        sys.stdout.flush()
        _check_heard(answers)
    except Stopped as stopped:
        _end_stopped(stopped)
    except Exception as error:
        if COMMAND.came:  # something that the stop broke on its way
            _end_stopped(Stopped(COMMAND.came, kept))
        if shown.debug:
            traceback.print_exc()
        text, code = one_line(error)
        if isinstance(error, hosts.Elsewhere):
            COMMAND.claim(code)  # it is said where it happened
            sys.exit(code)
        lost = "" if isinstance(error, UserError) else hosts.why_lost(error)
        refuse(f"{lost}, and so does this one: {kept}{again}" if lost else text, code)
    finally:
        COMMAND.kept, COMMAND.again, COMMAND.output = before


def one_line(error: Exception) -> tuple[str, int]:
    """What an error says to the user, and the exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text, error.exit_code
    if isinstance(error, ImportError) and (name := (error.name or "").partition(".")[0]):
        package = PACKAGES.get(name, name.replace("_", "-"))
        if isinstance(error, ModuleNotFoundError) and name != "alexnet_jax":
            return f"the package {name} is missing: pip install {package}", 1
        if name != "alexnet_jax":
            return (
                f"the package {name} is broken ({text}): pip install --force-reinstall {package}"
            ), 1
    if isinstance(error, OSError) and error.strerror:
        if error.filename is not None:
            return f"{os.fsdecode(error.filename)}: {error.strerror}", 1
        return f"{error.strerror}; the system does not say where, --debug does", 1
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"there is not enough memory for this: {text or 'none is left'}", 1
    kind = type(error).__name__
    return f"unexpected {kind}: {text}; run again with --debug for the traceback", 1


def _end_stopped(stopped: Stopped) -> NoReturn:
    """Ends the program with the sentence about what is kept."""
    told = hosts.said_by_another(str(stopped), 128 + stopped.signal_number)
    if COMMAND.claim(128 + stopped.signal_number) and not told:
        heard = COMMAND.output == 1 and streams.lost(sys.stdout) is None
        print(f"{stopped}{COMMAND.again}", file=sys.stdout if heard else sys.stderr, flush=True)
    sys.exit(128 + stopped.signal_number)


def unread() -> bool:
    """Whether nobody reads any more what is printed."""
    return streams.lost(sys.stdout) is not None


def _check_heard(answers: bool) -> None:
    """Ends the program, or says so, where what it printed could not be written."""
    error = streams.lost(sys.stdout)
    if error is None or shown.unheard:
        return
    shown.unheard = True
    if not streams.unread(error):
        text = f"what was printed is not complete (stdout: {error.strerror})"
        if answers:
            refuse(text)
        print(f"note: {text}", file=sys.stderr)
    elif answers:
        sys.exit(UNREAD)
