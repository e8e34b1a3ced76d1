"""Takes in weights that another program trained: `python -m alexnet_jax.convert FILE --out=W`.

FILE is the BVLC AlexNet of the ONNX model zoo (`.onnx`, or any graph that is such a network), or
the state dict of torchvision's `alexnet`, as training scripts leave it (`.pth`, `.pt`, `.pth.tar`,
`.ckpt`, `.bin`, `.safetensors`), or a folder that `alexnet_jax.export --format=torch` made. W is
then a directory like that of a run, for `alexnet_jax.load(W)` and all else that takes one. Nothing
in FILE is ever executed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli

PIXELS = ("caffe", "torchvision")  # the names of `exchange.weights.PIXELS`


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
        help="With caffe's pixels: the mean image in BGR order, 256x256x3 or 3x256x256, as .npy; "
        "the mean pixel of ImageNet if not given.",
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
    out, mean_file = Path(flags.out), Path(flags.mean_file) if flags.mean_file else None
    with cli.errors_in_one_line(f"{out} is no network unless it has a config.json"):
        from alexnet_jax.exchange import converting

        made = converting.convert(Path(file), out, pixels=flags.pixels, mean_file=mean_file)
        converting.report(made, file, out)
    return 0


if __name__ == "__main__":
    cli.run(main)
