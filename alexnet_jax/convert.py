"""Takes in weights that another program trained: `python -m alexnet_jax.convert FILE --out=W`.

FILE is an AlexNet of Caffe (`.caffemodel`, or `bvlc_alexnet.npy`), of the ONNX model zoo (`.onnx`,
or any graph that is such a network), the state dict of torchvision's `alexnet` as training scripts
leave it (`.pth`, `.pt`, `.pth.tar`, `.ckpt`, `.bin`, `.safetensors`), or a folder that
`alexnet_jax.export --format=torch` made. W is then a directory like that of a run, for
`alexnet_jax.load(W)` and all else that takes one. Nothing in FILE is ever executed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli

PIXELS = ("caffe", "torchvision")  # the names of `exchange.weights.PIXELS`
FILES = ("mean_file", "classes")  # flags that name one


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags; `files` is the one file to read."""
    parser = cli.Parser("convert", __doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", type=cli.path, help="The weights.")
    parser.add_argument(
        "--out", type=cli.path, help="The directory to make; must not be there, or be empty."
    )
    parser.add_argument(
        "--pixels",
        choices=PIXELS,
        help="What the network was trained to see. caffe: pixels in BGR order minus their mean; "
        "torchvision: RGB in 0..1 minus the mean, over the deviation. Needed for an .onnx file "
        "whose graph, without LRN and groups, need not be Caffe's.",
    )
    parser.add_argument(
        "--mean_file",
        type=cli.path,
        help="With caffe's pixels: the mean image in BGR order, SxSx3 or 3xSxS, as .npy or "
        ".binaryproto; S is the size of the pictures, most often 256. If not given, the mean pixel "
        "that FILE names, or ImageNet's.",
    )
    parser.add_argument(
        "--classes",
        type=cli.path,
        help="The names of the classes, a line each, in the order of the outputs; lines of "
        "categories_places365.txt (/a/airfield 0) and synset_words.txt are known. If not given, "
        "1000 classes have ImageNet's names, others numbers.",
    )
    flags = parser.parse(argv)
    if len(flags.files) != 1:
        shown = ", ".join(flags.files) or "none"
        cli.refuse(f"one file of weights is expected, here {shown}: give FILE --out=W", 2)
    if not flags.out:
        cli.refuse("--out is missing: the directory to make, such as --out=/data/bvlc", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Converts, and says what was done; the exit code."""
    flags = parse_flags(argv)
    (file,) = flags.files
    out = Path(flags.out)
    options = {name: Path(flag) if (flag := getattr(flags, name)) else None for name in FILES}
    with cli.errors_in_one_line(f"{out} is no network unless it has a config.json"):
        from alexnet_jax.exchange import converting

        made = converting.convert(Path(file), out, pixels=flags.pixels, **options)
        converting.report(made, file, out)
    return 0


if __name__ == "__main__":
    cli.run(main)
