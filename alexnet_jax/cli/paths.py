"""The networks that a command asks, and the files that it may write."""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from alexnet_jax.cli.ending import refuse
from alexnet_jax.errors import UserError
from alexnet_jax.files import INCLUDED

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # what a drawing may be
MARK = re.compile(rb"alexnet_jax\s+\d+\.")  # in what this program may replace


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


def add_workdir(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds the flag that names the network to ask, or several: see `workdirs`."""
    parser.add_argument(
        "--workdir",
        help=f"Directory of a run, or of {'several: W1,W2,W3' if several else 'converted weights'}."
        " If not given, the network that comes with the package, which knows five patterns in four "
        "hues, and nothing else.",
    )


def workdirs(named: str | None) -> list[Path]:
    """The directories of one run or of several, W1,W2,W3, see `workdir`; one may have a comma in
    its name. Ends the program if one is named twice."""
    if named is None or os.path.isdir(path(named)):
        return [workdir(named)]
    found = [workdir(one) for one in named.split(",")]
    places = [os.path.abspath(one) for one in found]
    for place in places:
        if places.count(place) > 1:
            refuse(f"--workdir names {place} twice", 2)
    return found


def workdir(named: str | None) -> Path:
    """The directory of a run; if none is named that of the network in the package, which is said on
    stderr. Ends the program if the name is empty."""
    if named is None:
        print(
            "no --workdir: asking the network that comes with the package. It knows five\n"
            "patterns in four hues (stripes, checks, dots, plain), and nothing of cats.",
            file=sys.stderr,
        )
        return INCLUDED
    if not named:
        refuse("--workdir has an empty name: the directory of a run, such as /tmp/alexnet", 2)
    return Path(path(named))


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
