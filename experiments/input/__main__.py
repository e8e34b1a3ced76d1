"""What training batches cost: this package's stream beside grain, PyTorch and the machine's limits.

    python -m experiments.input [--images=1024] [--rounds=5] [--seconds=2]

Draws JPEG files like ImageNet's, prepares them, checks that all the ways to read them give the same
images, and times these ways in turns, round by round. Writes benchmark.json, with all readings, and
benchmark.md, the page that is printed. Without PyTorch its rows are left out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from experiments.input import limits, ways_grain, ways_stream
from experiments.input.agreement import check
from experiments.input.material import HEIGHT, SIZE, WIDTH, prepare
from experiments.input.report import PACKAGES, ratios, report
from experiments.shared.command import Flags, Results, number, say, start
from experiments.shared.machine import cores, optional
from experiments.shared.timing import readings, spread, summary


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = Flags("input", __doc__)
    add = flags.add_argument
    add("--images", type=number(2), default=1024, help="JPEG files to draw and to read.")
    add("--rounds", type=number(1), default=5, help="How often everything is timed.")
    add("--batch_size", type=number(1), default=128, help="Images in a batch.")
    add("--crop", type=number(1, SIZE), default=224, help="Side of the crops in pixels.")
    add("--seconds", type=number(0.0), default=2.0, help="About how long everything runs a round.")
    return flags.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, checks, times and reports."""
    arguments = parse(argv)
    results = Results("input", arguments, PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments, Path(folder))
    result = results.made_by() | measured
    results.write("benchmark.json", result)
    results.write_page("benchmark.md", report(result))
    results.finish()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that is measured, with files in a folder that is empty."""
    cv2.setNumThreads(1)  # batches and images are the parallelism
    ways_torch = optional("experiments.input.ways_torch", needs="torch")
    if ways_torch is not None:
        ways_torch.one_thread_each()
    material = prepare(
        folder,
        images=arguments.images,
        batch_size=arguments.batch_size,
        crop=arguments.crop,
        threads=cores(),
    )
    checks = check(material, ways_torch)
    for sentence in checks:
        say(f"checked: {sentence}")
    modules = (ways_stream, ways_grain, ways_torch, limits)
    variants = [way for module in modules if module for way in module.variants(material)]
    timed = readings(variants, arguments.rounds, arguments.seconds, say)
    rows = [
        {"key": way.key, "group": way.group, "name": way.name} | summary(timed[way.key])
        for way in variants
    ]
    names = ("images", "rounds", "batch_size", "crop", "seconds")
    return {
        "settings": {name: getattr(arguments, name) for name in names}
        | {"size": SIZE, "threads": material.threads, "torch": ways_torch is not None},
        "jpegs": {
            "files": len(material.paths),
            "width": WIDTH,
            "height": HEIGHT,
            "kilobytes": spread([len(content) / 1000 for content in material.contents]),
        },
        "checks": checks,
        "rows": rows,
        "ratios": ratios(rows),
    }


if __name__ == "__main__":
    start(main)
