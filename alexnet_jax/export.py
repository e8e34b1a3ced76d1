"""A trained network for other programs: `python -m alexnet_jax.export --workdir=W --out=FILE`.

`--format=stablehlo` writes what `jax.export` reads, for a CPU, a GPU or a TPU, and beside it a JSON
file that says what goes in and comes out; `--format=onnx` writes both as one ONNX model, in
float32, float16 or int8. Neither needs this package to run. Either takes 'pixels', uint8
(N, C, C, 3), RGB, any N, subtracts the mean image itself, and gives 'logits' and 'probabilities',
float32 (N, classes), of one view.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import cli

FORMATS = ("stablehlo", "onnx")
PRECISIONS = ("float32", "float16", "int8")


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags."""
    parser = cli.Parser("export", __doc__)
    parser.add_argument("--workdir", help="Directory of the run, or of converted weights.")
    parser.add_argument("--format", choices=FORMATS, help="What to write.")
    parser.add_argument("--out", help="The file to write; it must not be there yet.")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="onnx: of weights and activations. int8 needs the run's dataset, to calibrate.",
    )
    parser.add_argument(
        "--best", action="store_true", help="The best checkpoint by validation error, not the last."
    )
    flags = parser.parse(argv)
    examples = {
        "workdir": "the run to export, such as --workdir=/tmp/alexnet",
        "format": f"one of {', '.join(FORMATS)}",
        "out": "the file to write, such as --out=alexnet.onnx",
    }
    for name, example in examples.items():
        if not getattr(flags, name):
            cli.refuse(f"--{name} is missing: {example}", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Exports, and says what was written; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line(flags.out):
        import jax

        from alexnet_jax.exchange.exporting import export

        jax.config.update("jax_platforms", "cpu")  # nothing is computed that needs more
        export(
            Path(flags.workdir),
            Path(flags.out),
            flags.format,
            precision=flags.precision,
            best=flags.best,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
