"""Pictures of runs, and what is measured in them: `python -m alexnet_jax.figures --workdir=W`.

Draws the kernels of the first layer, tower by tower (the paper's Figure 3), measures how much of
them is colour, and draws learning curves. `--workdir=W1,W2,W3` draws several runs together.

Without --workdir it is the network that comes with the package, drawn into figures/ where you are.
`--photo=cat.jpg` asks one network instead why it gives its answer: what the answer depends on, the
answer with each tower silenced and the activations of every layer, in `why-cat.png`.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags; `workdir` is a list."""
    parser = cli.Parser("figures", __doc__)
    cli.add_workdir(parser, several=True)
    parser.add_argument(
        "--out",
        type=cli.path,
        help="Directory of the pictures. If not given, figures/ of the (first) run, where training "
        "draws as well; what stands there is drawn again.",
    )
    parser.add_argument(
        "--photo", type=cli.path, metavar="FILE", help="An image whose answer is to be explained."
    )
    cli.add_overwrite(parser)
    flags = parser.parse(argv)
    if flags.workdir is None and not flags.out:
        flags.out = "figures"  # nothing is written into the package
    flags.workdir = cli.workdirs(flags.workdir)
    if flags.out and os.path.isfile(flags.out):
        cli.refuse(f"--out={flags.out} is a file; give a directory, which is made if need be", 2)
    if flags.photo and len(flags.workdir) > 1:
        cli.refuse("--photo asks one network: give one run as --workdir", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the flags ask for; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("a picture that is there is complete"):
        out = Path(flags.out) if flags.out else flags.workdir[0] / "figures"
        if flags.photo:
            explain(flags, out / f"why-{Path(flags.photo).stem}.png")
            return 0
        from alexnet_jax.pictures import of_runs

        for file in of_runs.written_to(flags.workdir, out) if flags.out else ():
            cli.check_output("out", file, flags.overwrite)
        of_runs.draw(flags.workdir, out)
    return 0


def explain(flags: argparse.Namespace, path: Path) -> None:
    """Draws why the photo gets its answer, and says it in words."""
    cli.check_output("out", path, flags.overwrite, [flags.photo])
    from alexnet_jax import load
    from alexnet_jax.data.photos import printable
    from alexnet_jax.evaluation import answers, why
    from alexnet_jax.pictures import why as drawing

    network = load(flags.workdir[0])
    found = why.explain(network, flags.photo)
    drawing.draw(found, network.classes, printable(Path(flags.photo).name), path)
    asked = {flags.photo: found.probabilities}
    asked |= {f"without tower {'AB'[t]}": own for t, own in enumerate(found.silenced)}
    for name, probabilities in asked.items():
        answers.print_block(name, answers.top(probabilities, network.classes))
    print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
