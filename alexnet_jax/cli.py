"""What the commands share: their flags, the files they may write, and how they end."""

import argparse
import contextlib
import difflib
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from logging import LogRecord
from pathlib import Path
from typing import Any, NoReturn

from alexnet_jax import streams
from alexnet_jax.errors import UserError
from alexnet_jax.files import INCLUDED
from alexnet_jax.run import hosts, noise
from alexnet_jax.signals import COMMAND, Stopped

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # what a drawing may be
MARK = re.compile(rb"alexnet_jax \d+\.")  # in what this program may replace
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


# --- paths ----------------------------------------------------------------------------------------


def path(text: str) -> str:
    """The `type` of a flag that is a path: `~` is the home directory, also where no shell says so
    (`--out=~/x`)."""
    return os.path.expanduser(text)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of `check_output`."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="Replace what is there under the names to write, if this program wrote it.",
    )


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that names a network; without it the one that comes with the package answers,
    see `say_which`."""
    parser.add_argument(
        "--workdir",
        type=path,
        help="Directory of a run, or of converted weights. If not given, the network that comes "
        "with the package, which knows five patterns in four hues, and nothing else.",
    )


def say_which(workdir: str | None) -> None:
    """Says on stderr that the network in the package answers, if no other one was named."""
    if workdir is None:
        print(
            "no --workdir: asking the network that comes with the package. It knows five\n"
            "patterns in four hues (stripes, checks, dots, plain), and nothing of cats.",
            file=sys.stderr,
        )
    elif not workdir:
        refuse("--workdir= is empty: the directory of a run, such as /tmp/alexnet", 2)


def workdirs(text: str | None) -> list[Path]:
    """The directories of one run or of several, W1,W2,W3; if none is named that of the network in
    the package, which is said. Ends the program if one is empty, or is named twice."""
    if text is None:
        say_which(text)
        return [INCLUDED]
    named = [path(workdir) for workdir in text.split(",")]
    if not all(named):
        refuse(f"--workdir={text}: the directory of a run, or several: W1,W2,W3", 2)
    places = [os.path.abspath(workdir) for workdir in named]
    for place in places:
        if places.count(place) > 1:
            refuse(f"--workdir names {place} twice", 2)
    return [Path(workdir) for workdir in named]


def check_picture(flag: str, path: str) -> None:
    """Ends the program if a flag's value cannot become a picture."""
    if Path(path).suffix.lower() not in PICTURES:
        refuse(f"--{flag}={path}: a picture's name ends in one of {', '.join(PICTURES)}", 2)
    check_folder(flag, path)


def check_folder(flag: str, path: str) -> None:
    """Ends the program if a file would lie in a folder that is not there."""
    if not Path(path).parent.is_dir():
        refuse(f"--{flag}={path}: there is no folder {Path(path).parent}", 2)


def check_output(
    flag: str,
    path: str | Path,
    overwrite: bool,
    inputs: Iterable[str | Path] = (),
    signed: Path | None = None,
) -> None:
    """Refuses a file that may not be written, before any work.

    What is there is replaced with `--overwrite` only, and only if it has the mark of this program:
    a slip of the keyboard must not cost a photo. A file that no mark fits into has it beside it.

    Args:
        flag: which names the file, for the message.
        path: of the file.
        overwrite: whether `--overwrite` was given.
        inputs: files that the command reads.
        signed: the file that has the mark, if it is another one.

    Raises:
        UserError: it is there, or is one of the inputs.
    """
    path = Path(path)
    named = f"--{flag}={path}"
    if path.is_dir():
        raise UserError(f"{named} is a folder: give the name of a file")
    if not os.path.lexists(path):
        return
    if any(_same(path, file) for file in inputs):
        raise UserError(f"{named} is one of the files to read: give a new name")
    if not overwrite:
        raise UserError(f"{path} is there already: give --overwrite to replace it, or a new name")
    if not is_ours(signed or path):
        raise UserError(
            f"{path} is there already and was not written by this program, so that --overwrite "
            "does not replace it: remove it yourself, or give a new name"
        )


def _same(path: Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one is not there
        return os.path.abspath(path) == os.path.abspath(other)


def is_ours(path: Path) -> bool:
    """Whether this program wrote a file: it has the mark at its start or its end.

    NumPy's format has no room for one; FILE.npy is known by the FILE.files.txt that is written with
    it.
    """
    if path.name.endswith((".npy", ".files.txt")):
        name = path.name.removesuffix(".npy").removesuffix(".files.txt")
        return all(path.with_name(name + end).is_file() for end in (".npy", ".files.txt"))
    return path.is_file() and bool(MARK.search(_ends(path)))


def _ends(path: Path, size: int = 1 << 16) -> bytes:
    """The start and the end of a file."""
    with path.open("rb") as file:
        start = file.read(size)
        file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - size))
        return start + file.read()


# --- how a command ends ---------------------------------------------------------------------------


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
        if isinstance(error, ModuleNotFoundError) and name != __package__:
            return f"the package {name} is missing: pip install {package}", 1
        if name != __package__:
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
