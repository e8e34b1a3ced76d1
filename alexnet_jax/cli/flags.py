"""Flags: what is wrong with them is one line and exit code 2."""

import argparse
import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from logging import LogRecord
from typing import Any, NoReturn

from alexnet_jax.cli.ending import refuse, shown


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
        self.add_argument("--debug", action="store_true", help="Show the traceback of an error.")

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
        shown.debug = found.debug
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
        define: defines the flags, `debug` among them.
    """
    from absl import flags

    try:
        define()
    except flags.Error as error:  # a variable of the environment is a default
        refuse(str(error), code=2)
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
    shown.debug = flags.FLAGS.debug
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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import flags, logging

    if not flags.FLAGS.is_parsed():  # some ask for absl's flags, which only `main` has
        flags.FLAGS.mark_as_parsed()
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # absl would raise it to INFO, for all libraries
    logging.get_absl_logger().addFilter(_for_users)


def _for_users(record: LogRecord) -> bool:
    """Whether something logged is no traceback: threads of orbax log what they raise."""
    return shown.debug or not record.exc_info
