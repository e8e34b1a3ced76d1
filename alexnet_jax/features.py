"""What layers say of many images: `python -m alexnet_jax.features --workdir=W --out=fc7.npy dir/`.

    --layers=list                 every layer, by all of its names
    --layers=fc7 --out=fc7.npy    one: .npy, .npz, .h5, .mat or .csv
    --layers=conv3,fc7 --out=DIR  several in one pass, a file for each
    --layers=prob --out=all.csv   a table: all probabilities of all images

The images are a split of the run's dataset (`--split=test`), or files and folders. Written beside
the features are the names of the images, the numbers of their classes where known, and the facts:
what the numbers are and where they are from. FILE.npy holds numbers alone; FILE.files.txt and
FILE.npy.json beside it have the rest. What cannot be used is named on stderr with the reason and
has no row, and the exit code is 1.

`--neighbours` draws the right half of the paper's Figure 4: the images that are nearest by the
Euclidean distance of these features (section 6.1).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.evaluation.feature_places import FORMS, place

MAPS = ("whole", "flat", "mean")
ORDERS = ("channels_last", "channels_first")


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags, and the files and folders; `layers` is a list, `there` says where they
    go."""
    parser = cli.Parser("features", __doc__)
    cli.add_workdir(parser)
    for flag, text in {
        "out": "The file of one layer, or a folder for several.",
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
        "--layers",
        "--layer",
        action="append",
        metavar="NAMES",
        help="fc7 (default), fc7/sum (before the ReLU), pool5, features.10, prob; list shows all.",
    )
    for flag, (text, *choices) in {
        "maps": ("Those of convolutions: as they are, in one row, or their means.", *MAPS),
        "order": ("Of maps, also in one row; the other is PyTorch's and Caffe's.", *ORDERS),
        "dtype": ("Of the numbers; float32 by default.", "float32", "float16"),
    }.items():
        parser.add_argument(f"--{flag}", choices=choices, default=choices[0], help=text)
    parser.add_argument("--format", choices=FORMS, help="Of the files in a folder; npy if not.")
    parser.add_argument(
        "--queries", type=cli.at_least(1), default=5, help="Rows of --neighbours; 5 by default."
    )
    for flag, text in {
        "ten_views": "The means over ten views (section 4.1): ten times the work.",
        "best": "The best checkpoint by validation error, not the last.",
    }.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    flags = parser.parse(argv)
    flags.layers = [*dict.fromkeys(",".join(flags.layers or ["fc7"]).split(","))]
    if flags.layers == ["list"]:
        return flags
    if bool(flags.split) == bool(flags.files):
        cli.refuse("give either --split=NAME, such as test, or image files and folders", 2)
    if not (flags.out or flags.neighbours):
        cli.refuse("--out is missing: a file, such as --out=features.npy", 2)
    flags.there = None
    if flags.out:
        cli.check_folder("out", flags.out)
        flags.there = place(Path(flags.out), flags.format, flags.layers)
        flags.format = flags.there.form
    if (flags.format, flags.dtype) == ("mat", "float16"):
        cli.refuse("--dtype=float16: a .mat file has no such numbers; .h5 has them", 2)
    if flags.neighbours:
        cli.check_picture("neighbours", flags.neighbours)
        if len(flags.layers) > 1 or flags.format == "csv":
            cli.refuse("--neighbours are those of one layer, and not of a table", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the flags say; the exit code."""
    with cli.errors_in_one_line("a file that has its name is complete"):
        flags = parse_flags(argv)
        flags.workdir = cli.workdir(flags.workdir)
        if flags.layers != ["list"]:
            return compute(flags)
        from alexnet_jax import load
        from alexnet_jax.evaluation import layers

        print(layers.table(load(flags.workdir).viewer.model.network))
        return 0


def compute(flags: argparse.Namespace) -> int:
    """Computes, writes and draws; the exit code."""
    from alexnet_jax.data import photos
    from alexnet_jax.data.sources.record import LeftOut
    from alexnet_jax.evaluation import feature_files, features

    there, left_out = flags.there, LeftOut()
    files, problems = photos.find_images(flags.files, left_out)
    for file in there.written if there else ():
        cli.check_output("out", file, flags.overwrite, files, there.signed)
    if flags.neighbours:
        cli.check_output("neighbours", flags.neighbours, flags.overwrite, files)
    for path, problem in problems.items():
        features.skipped(path, problem)
    photos.tell(left_out)
    if not (files or flags.split):
        return 1
    from alexnet_jax import load

    network = load(flags.workdir, best=flags.best)
    if flags.split:
        dataset = features.open_dataset(network, flags.cache, flags.data_dir)
        pictures = features.of_split(dataset, flags.split)
    else:
        pictures = features.of_files(network, files, problems)
    wanted = features.Wanted(
        tuple(flags.layers), flags.maps, flags.order, flags.dtype, flags.ten_views
    )
    rows, values = feature_files.write(
        network, wanted, pictures, there, overwrite=flags.overwrite, kept=bool(flags.neighbours)
    )
    if flags.neighbours:
        from alexnet_jax.pictures import figure4

        figure4.draw_nearest(network, rows, values, pictures.one, flags.queries, flags.neighbours)
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
