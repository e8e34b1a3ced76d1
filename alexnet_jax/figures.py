"""Pictures of runs, and what is measured in them: `python -m alexnet_jax.figures --workdir=W`.

Draws the kernels of the first layer, tower by tower (the paper's Figure 3), measures how much of
them is colour, and draws learning curves. `--workdir=W1,W2,W3` draws several runs together.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags; `workdir` is a list."""
    parser = cli.Parser("figures", __doc__)
    parser.add_argument("--workdir", help="Directory of a run, or of several: W1,W2,W3.")
    parser.add_argument(
        "--out",
        type=cli.path,
        help="Directory of the pictures. If not given, figures/ of the (first) run, where training "
        "draws as well; what stands there is drawn again.",
    )
    cli.add_overwrite(parser)
    flags = parser.parse(argv)
    named = [cli.path(workdir) for workdir in (flags.workdir or "").split(",")]
    if not all(named):
        cli.refuse("--workdir is missing: the directory of a run, or several: W1,W2,W3", 2)
    if flags.out and os.path.isfile(flags.out):
        cli.refuse(f"--out={flags.out} is a file; give a directory, which is made if need be", 2)
    flags.workdir = [Path(os.path.abspath(workdir)) for workdir in named]
    for workdir in flags.workdir:
        if flags.workdir.count(workdir) > 1:
            cli.refuse(f"--workdir names {workdir} twice", 2)
    flags.workdir = [Path(workdir) for workdir in named]
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the flags ask for; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("a picture that is there is complete"):
        from alexnet_jax.pictures import of_runs

        out = Path(flags.out) if flags.out else flags.workdir[0] / "figures"
        for file in of_runs.written_to(flags.workdir, out) if flags.out else ():
            cli.check_output("out", file, flags.overwrite)
        of_runs.draw(flags.workdir, out)
    return 0


if __name__ == "__main__":
    cli.run(main)
