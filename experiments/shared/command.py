"""The command line of an experiment: its flags, the folder of its results, and how they were made.

    python -m experiments.NAME [--FLAG=VALUE ...] [--out=FOLDER] [--publish]

Flags are defined when a command starts, not when its module is imported. Results go into the folder
`--out`, by default `results-NAME` in the current directory; `--publish` copies them into the
repository at the end, to `experiments/results/NAME`.
"""

import argparse
import difflib
import json
import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alexnet_jax import streams
from alexnet_jax.cli import fitted
from alexnet_jax.errors import UserError
from experiments.shared import machine

PUBLISHED = Path(__file__).parents[1] / "results"


def say(line: str) -> None:
    """Prints how far an experiment is, on stderr: on stdout stands the result alone."""
    print(line, file=sys.stderr, flush=True)


def start(main: Callable[[], None]) -> None:
    """Runs an experiment; what its user can fix is one line on stderr, and an exit code."""
    streams.last()  # a closed pipe ends no hour of measuring
    # As an exception, so that the processes that were started are ended as well, see `runs.call`.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except UserError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


# --- flags ----------------------------------------------------------------------------------------


class Flags(argparse.ArgumentParser):
    """The flags of one command. A mistake in them is one line on stderr and the exit code 2."""

    def __init__(self, name: str, about: str | None, *, results: bool = True) -> None:
        """Args:
        name: of the module, without `experiments.`
        about: its docstring, which `--help` prints.
        results: whether it has `--out` and `--publish`.
        """
        self.places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        if results:
            self.places.add_argument(
                "--out", type=Path, help="Folder of the results; results-NAME where you are."
            )
            self.places.add_argument(
                "--publish",
                action="store_true",
                help="Also copy them to experiments/results/NAME, over those that are there.",
            )
        super().__init__(
            f"python -m experiments.{name}",
            description=about,
            parents=[self.places],
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The values of the flags, and `command`: the line that gives the same result again.

        Args:
            argv: the arguments; those of this process if it is None.
        """
        argv = sys.argv[1:] if argv is None else list(argv)
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            self.error(f"unknown flag {unknown[0]}{f', did you mean {near[0]}' if near else ''}")
        _, others = self.places.parse_known_args(argv)
        arguments.command = " ".join([self.prog, *map(shlex.quote, others)])
        return arguments

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        say(f"error: {message}; see --help")
        sys.exit(2)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Fits a docstring to the terminal, and names the default of a flag that has one."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return fitted(text, width)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def number(least: float, most: float = math.inf) -> Callable[[str], Any]:
    """The type of a flag: a number of the type of `least`, in these bounds."""

    def parse(text: str) -> Any:
        found = type(least)(text)
        if not least <= found <= most:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return found

    parse.__name__ = type(least).__name__  # for "invalid int value"
    return parse


def listing(kind: Callable[[str], Any] = str) -> Callable[[str], list[Any]]:
    """The type of a flag: values with commas between them."""

    def parse(text: str) -> list[Any]:
        return [kind(word) for word in text.split(",")]

    parse.__name__ = "list"
    return parse


def add_fields(flags: Flags) -> None:
    """Adds `--set`, for fields of a configuration; see `fields`."""
    flags.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="Set a field of the configuration, such as model.fc6.width=128; any number of times.",
    )


def fields(arguments: argparse.Namespace) -> list[str]:
    """What `--set` gives, each FIELD=VALUE; `config.`, as the training command has it, may lead."""
    return [assignment.removeprefix("config.") for assignment in arguments.set]


# --- results --------------------------------------------------------------------------------------


class Results:
    """The files that an experiment leaves.

    Attributes:
        folder: where they are written. Folders in it are no results and are never published.
        trained_at: the commits at which kept runs, that these results stand on, were begun.
    """

    def __init__(
        self, name: str, arguments: argparse.Namespace, packages: Iterable[str] = ()
    ) -> None:
        """Args:
            name: of the folder in `experiments/results`.
            arguments: what `Flags.parse` returned.
            packages: those to be named beside the ones that every result names.

        Raises:
            UserError: the folder cannot be made; or something is to be published that was made by
                code that is not committed.
        """
        self.command = arguments.command
        self.machine = machine.describe(packages)
        self.load_before = os.getloadavg()
        self.folder = arguments.out or Path(f"results-{name}")
        self.publish_to = PUBLISHED / name if arguments.publish else None
        self.names: list[str] = []
        self.trained_at: set[str] = set()
        if arguments.publish and self.machine["commit"].endswith("-dirty"):
            raise UserError(
                f"--publish: the code differs from its commit, {self.machine['commit']}, which the "
                "result is to name: commit the changes, or leave --publish out"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out={self.folder}: {error.strerror}") from error

    def made_by(self) -> dict[str, Any]:
        """The first part of every result: the command, the machine, and its load; and where runs
        were kept, when they were begun."""
        load = {"before": self.load_before, "after": os.getloadavg()}
        found = {"command": self.command, "machine": self.machine, "load_average": load}
        return found | ({"trained_at": sorted(self.trained_at)} if self.trained_at else {})

    def path(self, name: str) -> Path:
        """Where to write a file of this name, so that it is one of the results."""
        if name not in self.names:
            self.names.append(name)
        return self.folder / name

    def write(self, name: str, content: str | dict[str, Any]) -> None:
        """Writes a text, or a dictionary as JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        self.path(name).write_text(text)

    def earlier(self, name: str) -> dict[str, Any]:
        """What a JSON file of results says already, part by part: here, and where it will be
        published, whose parts come first, so that a new part takes no other's place."""
        found: dict[str, Any] = {}
        for folder in (self.folder, self.publish_to):
            if folder is not None and (folder / name).exists():
                found |= json.loads((folder / name).read_text())
        return found

    def write_page(self, name: str, page: str) -> None:
        """Writes a text and prints it."""
        self.write(name, page)
        print(page)

    def finish(self) -> None:
        """Says where the results are, and publishes them if that was asked for."""
        say(f"written to {self.folder}: {', '.join(self.names)}")
        if self.publish_to is not None:
            self.publish_to.mkdir(parents=True, exist_ok=True)
            for name in self.names:
                shutil.copy(self.folder / name, self.publish_to / name)
            say(f"published in {self.publish_to}")
