"""The quick alternative to fine-tuning: `python -m alexnet_jax.linear --workdir=W --source=...`.

A linear classifier (scikit-learn's logistic regression) on what the last layer but one of W says of
the images, fc7 in AlexNet; W is a run, or converted weights. Prints its error on the images that a
fine-tuning would be tested on (`--config=finetune` of `main`). A fine-tuned run W2 knows its images
and the weights that it started from, so that `--workdir=W2` alone prints both errors. `--out=W3`
writes the network with the classifier as its last layer, for every command that takes a run.
Needs `pip install scikit-learn`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags."""
    parser = cli.Parser("linear", __doc__)
    parser.add_argument(
        "--workdir",
        type=cli.path,
        help="The network: a run, or converted weights; or a run that was fine-tuned.",
    )
    parser.add_argument(
        "--source",
        help="The images: folder:PATH with a folder for each class, or any data.source.",
    )
    parser.add_argument(
        "--cache", type=cli.path, help="The same, as alexnet_jax.prepare made them."
    )
    parser.add_argument(
        "--out", type=cli.path, help="The directory to make; must not be there, or be empty."
    )
    flags = parser.parse(argv)
    if not flags.workdir:
        cli.refuse("--workdir is missing: the directory of a run, such as /tmp/alexnet", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, tests and writes; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("nothing was changed"):
        from alexnet_jax import settings
        from alexnet_jax.errors import UserError
        from alexnet_jax.training import linear

        workdir = Path(flags.workdir)
        given = {"data.source": flags.source, "data.cache": flags.cache}
        fields = [f"{field}={value}" for field, value in given.items() if value]
        if fields:
            fields.append(f"init_from={flags.workdir}")
            config = settings.override(settings.load("finetune"), fields)
            config, run = settings.adapt(config, fields), None
        else:
            config, run = settings.read(workdir / "config.json"), workdir
            if not config.init_from:
                raise UserError(
                    f"{workdir} did not start from other weights: name the images, such as "
                    "--source=folder:PATH with a folder for each class"
                )
        linear.train(config, Path(flags.out) if flags.out else None, run)
    return 0


if __name__ == "__main__":
    cli.run(main)
