"""A trained network for other programs: `python -m alexnet_jax.export --workdir=W --out=OUT`.

`--format=stablehlo` writes what `jax.export` reads, for a CPU, a GPU or a TPU, and beside it a JSON
file that says what goes in and comes out; `--format=onnx` writes both as one ONNX model, in
float32, float16 or int8. Neither needs this package to run. Either takes 'pixels', uint8
(N, C, C, 3), RGB, any N, subtracts the mean image itself, and gives 'logits' and 'probabilities',
float32 (N, classes), of one view.

`--format=torch` makes a folder for PyTorch's users: model.safetensors, alexnet.py with the same
network as a `torch.nn.Module`, README.md, which says what it takes and how to load it, and
config.json; `alexnet_jax.convert` makes a run of it again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli

FORMATS = ("stablehlo", "onnx", "torch")
PRECISIONS = ("float32", "float16", "int8")


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags."""
    parser = cli.Parser("export", __doc__)
    parser.add_argument(
        "--workdir", type=cli.path, help="Directory of the run, or of converted weights."
    )
    parser.add_argument("--format", choices=FORMATS, help="What to write.")
    parser.add_argument("--out", type=cli.path, help="The file to write; the folder for torch.")
    cli.add_overwrite(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="onnx: of weights and activations. int8 is calibrated with images of the run's "
        "training split, or with those that are named.",
    )
    for flag, text in {
        "cache": "int8: a prepared cache of the dataset, if it is not the run's.",
        "data_dir": "int8: the directory of datasets, if it is not the run's.",
    }.items():
        parser.add_argument(f"--{flag}", type=cli.path, help=text)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        type=cli.path,
        help="int8: an image to calibrate with, or a folder of them, instead of the run's.",
    )
    parser.add_argument(
        "--best", action="store_true", help="The best checkpoint by validation error, not the last."
    )
    flags = parser.parse(argv)
    examples = {
        "workdir": "the run to export, such as --workdir=/tmp/alexnet",
        "format": f"one of {', '.join(FORMATS)}",
        "out": "what to write, such as --out=alexnet.onnx",
    }
    for name, example in examples.items():
        if not getattr(flags, name):
            cli.refuse(f"--{name} is missing: {example}", 2)
    if flags.precision != "int8" and (flags.files or flags.cache or flags.data_dir):
        cli.refuse("images to calibrate with are for --precision=int8", 2)
    cli.check_folder("out", flags.out)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Exports, and says what was written; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("a file that has its name is complete"):
        from alexnet_jax.exchange import exporting

        out = Path(flags.out)
        files = exporting.written(out, flags.format)
        for file in files:
            signed = file if flags.format == "torch" else files[-1]
            cli.check_output("out", file, flags.overwrite, flags.files, signed)
        import jax

        jax.config.update("jax_platforms", "cpu")  # nothing is computed that needs more
        exporting.export(
            Path(flags.workdir),
            out,
            flags.format,
            precision=flags.precision,
            best=flags.best,
            calibration=exporting.Calibration(flags.files, flags.cache, flags.data_dir),
            overwrite=flags.overwrite,
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
