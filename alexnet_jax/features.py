"""What a layer says of many images: `python -m alexnet_jax.features --workdir=W --out=FILE.npy`.

Of a split of the run's dataset (`--split=test`), or of image files and folders. FILE.npy is written
as it is computed; beside it `FILE.files.txt` has the name of every row, and after a tab the number
of its class where that is known. FILE.npz holds `features`, `files` and `labels` (-1: not known).
`--neighbours` draws the right half of the paper's Figure 4: the images that are nearest by the
Euclidean distance of these features (section 6.1). What cannot be used is named on stderr with the
reason and has no row, and the exit code is 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags, and the files and folders."""
    parser = cli.Parser("features", __doc__)
    cli.add_workdir(parser)
    for flag, text in {
        "out": "FILE.npy, written as it is computed, or FILE.npz.",
        "split": "Instead of files: a split of the run's dataset, as test.",
        "data_dir": "The directory of datasets, if it is not the run's.",
        "cache": "A prepared cache of the dataset, if it is not the run's.",
        "neighbours": "Draw some images from all over, and those nearest to each, in this file.",
    }.items():
        parser.add_argument(f"--{flag}", type=str if flag == "split" else cli.path, help=text)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", type=cli.path, help="An image, or a folder of them."
    )
    cli.add_overwrite(parser)
    parser.add_argument(
        "--layer", default="fc7", help="fc7 (default), fc7/sum (before the ReLU), conv5/pool, fc8."
    )
    parser.add_argument(
        "--queries", type=cli.at_least(1), default=5, help="Rows of --neighbours; 5 by default."
    )
    parser.add_argument(
        "--best", action="store_true", help="The best checkpoint by validation error, not the last."
    )
    flags = parser.parse(argv)
    if bool(flags.split) == bool(flags.files):
        cli.refuse("give either --split=NAME, such as test, or image files and folders", 2)
    if not (flags.out or flags.neighbours):
        cli.refuse("--out is missing: a file, such as --out=features.npy", 2)
    if flags.out:
        if Path(flags.out).suffix not in (".npy", ".npz"):
            cli.refuse(f"--out={flags.out}: its name has to end in .npy or .npz", 2)
        cli.check_folder("out", flags.out)
    if flags.neighbours:
        cli.check_picture("neighbours", flags.neighbours)
    cli.say_which(flags.workdir)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the flags say; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("a file that has its name is complete"):
        return compute(flags)


def compute(flags: argparse.Namespace) -> int:
    """Computes, writes and draws; the exit code."""
    from alexnet_jax.data import photos
    from alexnet_jax.data.sources.record import LeftOut
    from alexnet_jax.evaluation import features

    out = Path(flags.out) if flags.out else None
    left_out = LeftOut()
    files, problems = photos.find_images(flags.files, left_out)
    for file in features.written(out) if out else ():
        cli.check_output("out", file, flags.overwrite, files)
    if flags.neighbours:
        cli.check_output("neighbours", flags.neighbours, flags.overwrite, files)
    for path, problem in problems.items():
        features.skipped(path, problem)
    photos.tell(left_out)
    if not (files or flags.split):
        return 1
    from alexnet_jax import load

    network = load(flags.workdir, best=flags.best)
    stage = network.stage(flags.layer)
    if flags.split:
        dataset = features.open_dataset(network, flags.cache, flags.data_dir)
        pictures = features.of_split(dataset, flags.split)
    else:
        pictures = features.of_files(network, files, problems)
    rows, values = features.write(network, stage, pictures, out, overwrite=flags.overwrite)
    if out is not None:
        names = f"; names in {features.names_file(out)}" if out.suffix == ".npy" else ""
        print(f"{out}: {flags.layer}, float32 {values.shape}{names}")
    if flags.neighbours:
        from alexnet_jax.pictures import figure4

        figure4.draw_nearest(network, rows, values, pictures.one, flags.queries, flags.neighbours)
        count = min(flags.queries, len(rows))
        print(f"{flags.neighbours}: {count} images and the nearest to each")
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
