"""What the commands share.

flags     parsing, with one line for what is wrong
paths     the networks that are asked, the files that may be written
ending    one line and an exit code, whatever ends a command
"""

from alexnet_jax.cli.ending import errors_in_one_line, one_line, refuse, run, shown, unread
from alexnet_jax.cli.flags import Parser, at_least, fitted, nearest, parse_absl
from alexnet_jax.cli.paths import (
    PICTURES,
    add_overwrite,
    add_workdir,
    check_folder,
    check_output,
    check_picture,
    is_ours,
    path,
    workdir,
    workdirs,
)

__all__ = [
    "PICTURES",
    "Parser",
    "add_overwrite",
    "add_workdir",
    "at_least",
    "check_folder",
    "check_output",
    "check_picture",
    "errors_in_one_line",
    "fitted",
    "is_ours",
    "nearest",
    "one_line",
    "parse_absl",
    "path",
    "refuse",
    "run",
    "shown",
    "unread",
    "workdir",
    "workdirs",
]
