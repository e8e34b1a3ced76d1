"""What the commands share: their flags, errors in one line, and signals."""

import argparse
import contextlib
import difflib
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alexnet_jax.errors import UserError
from alexnet_jax.run import noise
from alexnet_jax.signals import Stopped

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # what a drawing may be


def refuse(message: str, code: int = 1) -> NoReturn:
    """Ends the program with one line on stderr. Code 2 is for the command itself."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """The flags of a command; what is wrong with them is one line and exit code 2."""

    def __init__(self, name: str, description: str | None) -> None:
        """Args:
        name: of the command's module.
        description: the module's docstring.
        """
        super().__init__(
            prog=f"python -m alexnet_jax.{name}",
            description=description,
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        refuse(f"{message}; see --help", 2)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Returns the flags and files; they may come in any order."""
        found, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                self.error(f"unexpected argument {flag!r}")
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown flag {flag}{nearest(flag, known)}")
        quieten_libraries()
        return found


class _Help(argparse.HelpFormatter):
    """Fits a docstring to the terminal, paragraph by paragraph."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return fitted(text, width)


def fitted(text: str, width: int) -> str:
    """Returns a docstring whose paragraphs are as wide as the terminal; indented ones stay."""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(
        paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width)
        for paragraph in paragraphs
    )


def parse_absl(
    name: str, description: str, argv: Sequence[str], define: Callable[[], None]
) -> None:
    """Parses `absl.flags.FLAGS`; what is wrong is one line and exit code 2, help is exit code 0.

    Args:
        name: of the command's module.
        description: the module's docstring.
        argv: the arguments.
        define: defines the flags.
    """
    from absl import flags

    define()
    if {"-h", "--help", "-help", "--helpfull"} & set(argv):
        width = shutil.get_terminal_size().columns - 2
        print(f"usage: python -m alexnet_jax.{name} [flags]\n\n{fitted(description, width)}\n")
        print(flags.FLAGS.module_help(sys.modules[define.__module__]).partition(":\n")[2])
        sys.exit(0)
    try:
        extra = flags.FLAGS([name, *argv])[1:]
    except flags.Error as error:
        refuse(str(error), code=2)
    if extra:
        refuse(f"unexpected argument {extra[0]!r}; see --help", code=2)
    quieten_libraries()


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns ', did you mean ...?', or nothing if nothing is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def at_least(least: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """Returns the `type` of a flag that is a number from `least` on."""

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            words = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {words} from {least} on")
        return value

    return number


def quieten_libraries() -> None:
    """Keeps what libraries log for their own developers from the user."""
    noise.ignore_stragglers()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import flags, logging

    if not flags.FLAGS.is_parsed():  # some ask for absl's flags, which only `main` has
        flags.FLAGS.mark_as_parsed()
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # absl would raise it to INFO, for all libraries


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
def errors_in_one_line(where: object, kept: str = "nothing is lost") -> Iterator[None]:
    """Makes one line, and an exit code, of what the user can fix or has asked for.

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
        sys.stdout.flush()
    except UserError as error:
        refuse(str(error), error.exit_code)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        refuse(f"{error.filename or where}: {error.strerror or error}")
    except Stopped as stopped:
        print(f"{stopped}; give the same command again to resume", flush=True)
        sys.exit(128 + stopped.signal_number)
