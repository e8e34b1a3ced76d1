"""Makes a dataset ready for training: `python -m alexnet_jax.prepare --source=... --out=DIR`.

Every image is decoded and brought to 256x256 once (paper section 2), with the mean image and the
RGB components of the training split. `--config.data.cache=DIR` then trains from it. Small datasets
need no such command: `main` prepares them by itself.
"""

import argparse
import os
from collections.abc import Sequence

from alexnet_jax import cli


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags."""
    parser = cli.Parser("prepare", __doc__)
    parser.add_argument(
        "--source",
        help="tfds:NAME (a prepared TFDS dataset), ilsvrc:DIR (with ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar), folder:PATH (PATH/{train,val,test}/CLASS/*.jpg, or PATH/CLASS/), "
        "or any data.source of a configuration. Without it, the cache in --out is verified.",
    )
    parser.add_argument("--out", help="The cache's directory; made if it is not there.")
    parser.add_argument(
        "--size",
        type=cli.at_least(1),
        help="Side of the prepared images in pixels; 256 if not given.",
    )
    parser.add_argument(
        "--holdout",
        type=cli.at_least(0, float),
        help="Training images set aside as 'validation': a number, or a share below 1.",
    )
    parser.add_argument(
        "--on_bad_image",
        choices=("fail", "skip"),
        default="fail",
        help="What to do at an unusable image: stop, or leave it out and list it in skipped.csv.",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="Make the cache in --out again if its images have changed, or it is another one. What "
        "has not changed is taken over, and the old one stays until the new one is complete.",
    )
    parser.add_argument("--workers", type=cli.at_least(1), help="Threads; all cores by default.")
    parser.add_argument(
        "--data_dir", help="Where TFDS keeps its datasets; its own default if not given."
    )
    flags = parser.parse(argv)
    if not flags.out:
        cli.refuse("--out is missing: the directory of the cache, such as --out=/data/pets-256", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares, or verifies what is prepared; the exit code."""
    flags = parse_flags(argv)
    out = os.path.realpath(os.path.expanduser(flags.out))
    resume = "; give the same command again to resume"
    with cli.errors_in_one_line("what was prepared is kept", again=resume):
        from alexnet_jax.data import preparing

        if not flags.source:
            preparing.verify(out, flags.size, flags.holdout)
        else:
            preparing.prepare(
                flags.source,
                out,
                size=flags.size or 256,
                holdout=flags.holdout or 0,
                workers=flags.workers,
                on_bad_image=flags.on_bad_image,
                overwrite=flags.overwrite,
                data_dir=flags.data_dir,
            )
    return 0


if __name__ == "__main__":
    cli.run(main)
