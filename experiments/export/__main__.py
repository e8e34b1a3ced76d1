"""What a narrower export costs and gains: file size, latency and error, by onnxruntime on a CPU.

    python -m experiments.export --workdir=W [--rounds=5] [--seconds=1]

Two networks: that of the run W, whose errors on its whole test split are counted in one view, and
the full one of 2012 with random weights, for its size and latency. All precisions of a network are
timed in turns, round by round. Writes benchmark.json, with all readings, and benchmark.md, the page
that is printed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.export.measure import Clock, full_rows, run_rows
from experiments.export.report import PACKAGES, report
from experiments.shared.command import Flags, Results, number, start


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = Flags("export", __doc__)
    add = flags.add_argument
    add("--workdir", type=Path, required=True, help="Directory of a trained run.")
    add("--rounds", type=number(1), default=5, help="How often everything is timed.")
    add("--seconds", type=number(0.0), default=1.0, help="Everything runs so long a round.")
    return flags.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Exports, counts, times and reports."""
    arguments = parse(argv)
    results = Results("export", arguments, PACKAGES)
    jax.config.update("jax_platforms", "cpu")
    clock = Clock(arguments.rounds, arguments.seconds)
    rows = run_rows(arguments.workdir, clock) + full_rows(clock)
    result = results.made_by() | {"settings": clock._asdict(), "rows": rows}
    results.write("benchmark.json", result)
    results.write_page("benchmark.md", report(result))
    results.finish()


if __name__ == "__main__":
    start(main)
