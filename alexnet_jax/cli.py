"""What the command lines share: flags, errors in one line, and signals."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import flags, logging

from alexnet_jax.errors import UserError
from alexnet_jax.interrupts import Stopped

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # what a drawing may be


def refuse(message: str, code: int = 1) -> NoReturn:
    """Ends the program with one line on stderr. Code 2 is for the command itself."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def parse(argv: list[str], define: Callable[[], None], *, files: bool = False) -> list[str]:
    """Defines and parses the flags of `absl.flags.FLAGS`; what is wrong with them is one line.

    Args:
        argv: the program's name and its arguments.
        define: defines the program's flags.
        files: whether arguments that are no flags are allowed.

    Returns:
        The arguments that are no flags.
    """
    define()
    try:
        extra = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        refuse(str(error), code=2)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # absl would raise it to INFO, for all libraries
    if extra and not files:
        refuse(f"unexpected argument {extra[0]!r}; see --help", code=2)
    return list(extra)


def check_workdir(workdir: str | None) -> None:
    """Ends the program if there is none."""
    if not workdir:
        refuse("--workdir is missing: the directory of a run, such as /tmp/alexnet", 2)


def check_picture(flag: str, path: str) -> None:
    """Ends the program if a flag's value cannot become a picture."""
    if Path(path).suffix.lower() not in PICTURES:
        refuse(f"--{flag}={path}: a picture's name ends in one of {', '.join(PICTURES)}", 2)
    check_folder(flag, path)


def check_folder(flag: str, path: str) -> None:
    """Ends the program if a file would lie in a folder that is not there."""
    if not Path(path).parent.is_dir():
        refuse(f"--{flag}={path}: there is no folder {Path(path).parent}", 2)


@contextlib.contextmanager
def mendable(where: object, kept: str = "nothing is lost") -> Iterator[None]:
    """Makes one line, and an exit code, of what the user can mend or has asked for.

    Args:
        where: a file or directory to name where an error of the system names none.
        kept: what a stop by a signal leaves.
    """

    def stop(number: int, frame: object) -> NoReturn:
        del frame
        raise Stopped(number, kept)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        yield
    except UserError as error:
        refuse(str(error), error.exit_code)
    except OSError as error:
        refuse(f"{error.filename or where}: {error.strerror or error}")
    except Stopped as stopped:
        print(f"{stopped}; give the same command again to go on", flush=True)
        sys.exit(128 + stopped.signal_number)
