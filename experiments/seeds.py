"""The command of the README with one seed or several: its errors and its seconds.

    python -m experiments.seeds --config=embedded --seeds=0,1,2,3,4

Each seed is a process of its own, as a user would start it, with a clock around the whole of it;
the first also prepares the data, if that has not been done. Writes summary.json and, of the first
seed, the metrics, the configuration, the pictures and all that it printed. `colour` is what
`alexnet_jax.figures` measures of the first layer (Figure 3).
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.shared import runs
from experiments.shared.command import Flags, Results, add_fields, fields, listing, start

KEPT = ("metrics.jsonl", "config.json", "figures/conv1.png", "figures/curves.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the seeds one after the other, and writes after each."""
    flags = Flags("seeds", __doc__)
    flags.add_argument("--config", default="embedded", help="Name or file of the configuration.")
    flags.add_argument("--seeds", type=listing(int), default="0,1,2,3,4", help="One run each.")
    add_fields(flags)
    arguments = flags.parse(argv)
    # Each configuration has a folder of its own among the results.
    results = Results(Path(arguments.config).stem.replace(":", "-"), arguments)
    found: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as name:
            workdir, assigned = Path(name), [f"seed={seed}", *fields(arguments)]
            command = runs.training(workdir, arguments.config, assigned)
            found.append({"seed": seed} | run(command, workdir, None if found else results))
        print(json.dumps(found[-1]), flush=True)
        summary = {
            "worst_ten_view_top1_error": max(run["test"]["10"]["top1_error"] for run in found),
            "longest_seconds": max(run["seconds"] for run in found),
            "runs": found,
        }
        results.write("summary.json", results.made_by() | summary)
    results.finish()


def run(command: Sequence[str], workdir: Path, keep: Results | None) -> dict[str, Any]:
    """One run: its seconds by the clock, its speed, its colours and its test scores.

    Args:
        command: that trains it.
        workdir: of the run.
        keep: where its files and what it printed are kept; None: they are not.
    """
    begin = time.perf_counter()
    printed = runs.call(*command)
    seconds = time.perf_counter() - begin
    runs.call("figures", f"--workdir={workdir}")
    (colour,) = json.loads((workdir / "figures" / "conv1.json").read_text())["runs"]
    training = runs.metrics(workdir, "train")
    if keep is not None:
        for name in KEPT:
            shutil.copy(workdir / name, keep.path(Path(name).name))
        keep.write("output.txt", printed.replace(str(workdir), "WORKDIR"))
    speeds = [row["images_per_second"] for row in training]
    waits = [row["data_wait_fraction"] for row in training]
    return {
        "seconds": round(seconds, 1),
        "steps": training[-1]["step"],
        "median_images_per_second": round(statistics.median_high(speeds), 1),
        "median_data_wait_fraction": statistics.median_high(waits),
        "colour": {name: colour[name] for name in ("towers", "difference", "p") if name in colour},
        "test": {str(row["views"]): row for row in runs.metrics(workdir, "test")},
    }


if __name__ == "__main__":
    start(main)
