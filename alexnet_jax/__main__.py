"""All commands by one name: `alexnet-jax COMMAND ...`, or `python -m alexnet_jax COMMAND ...`."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from alexnet_jax import __version__, cli

MODES = {
    "train": "train the network of a configuration, or resume a run",
    "evaluate": "test a run again, in one view and in ten; several runs as one",
    "describe": "print the network, layer by layer",
    "config": "print every field of a configuration, or what two differ in",
}
COMMANDS = {
    "prepare": "make a dataset ready for training",
    "predict": "say what photos show",
    "features": "write what layers say of many images",
    "linear": "train a linear classifier on what the last layer but one says",
    "figures": "draw Figure 3 of the paper, learning curves, and why an answer",
    "explore": "the same for any photo, in a browser",
    "convert": "take in weights that another program trained",
    "export": "write a network for other programs",
}


def usage() -> str:
    """All commands, a line each."""
    rows = [f"    {name:<10}{text}" for name, text in {**MODES, **COMMANDS}.items()]
    return "\n".join([
        "usage: alexnet-jax COMMAND ...", "", *rows, "",
        "alexnet-jax COMMAND --help shows the flags of one.",
    ])  # fmt: skip


def main() -> NoReturn:
    """Runs the command of this process's arguments."""
    cli.run(lambda: command(sys.argv[1:]))


def command(argv: Sequence[str]) -> int:
    """Runs a command; its exit code."""
    name, *rest = list(argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"alexnet_jax {__version__}")
        return 0
    if name in MODES:
        name, rest = "main", [f"--mode={name}", *rest]
    elif name not in COMMANDS and name != "main":
        near = cli.nearest(name, [*MODES, *COMMANDS])
        cli.refuse(f"unknown command {name!r}{near}; alexnet-jax --help lists them", 2)
    code: int = importlib.import_module(f"alexnet_jax.{name}").main(rest)
    return code


if __name__ == "__main__":
    main()
