"""Runs the command of the README with one seed or several, and keeps what came out.

    python -m experiments.seeds --config=embedded --seeds=0,1,2,3,4

Each seed is a process of its own, as a user would start it, with a clock around the whole of it;
the first also prepares the data, if that has not been done. Into `experiments/results/CONFIG/` go
`summary.json`, and of the first seed the metrics, the configuration, the pictures and all that it
printed. `colour` is what `alexnet_jax.figures` measures of the first layer (Figure 3).
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.shared import machine

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "embedded", "Name of the configuration.")
flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds, one run each.")
flags.DEFINE_multi_string("set", [], "More flags for every run, such as config.data.dir=DIR.")
flags.DEFINE_string("out", None, "Where to write; experiments/results/CONFIG by default.")


def main(_: list[str]) -> None:
    """Runs the seeds one after the other."""
    out = Path(FLAGS.out or Path(__file__).parent / "results" / FLAGS.config)
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    for number, seed in enumerate(FLAGS.seeds):
        with tempfile.TemporaryDirectory() as workdir:
            runs.append(run(seed, Path(workdir), out if number == 0 else None))
        print(json.dumps(runs[-1]), flush=True)
        summary = {
            "command": " ".join(["python -m experiments.seeds", *sys.argv[1:]]),
            "machine": machine.describe(),
            "worst_ten_view_top1_error": max(r["test"]["10"]["top1_error"] for r in runs),
            "longest_seconds": max(r["seconds"] for r in runs),
            "runs": runs,
        }
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def run(seed: str, workdir: Path, keep: Path | None) -> dict[str, Any]:
    """One run: its wall-clock seconds and its test scores."""
    flags_ = [f"--config={FLAGS.config}", f"--config.seed={seed}", *(f"--{s}" for s in FLAGS.set)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.main", f"--workdir={workdir}", *flags_],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"seed {seed} failed:\n{done.stdout}")
    drawing = [sys.executable, "-m", "alexnet_jax.figures", f"--workdir={workdir}"]
    subprocess.run(drawing, check=True, stdout=subprocess.DEVNULL)
    (colour,) = json.loads((workdir / "figures" / "conv1.json").read_text())["runs"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if row["split"] == "train"]
    if keep is not None:
        for name in ("metrics.jsonl", "config.json", "figures/conv1.png", "figures/curves.png"):
            shutil.copy(workdir / name, keep / Path(name).name)
        (keep / "output.txt").write_text(done.stdout.replace(str(workdir), "WORKDIR"))
    return {
        "seed": int(seed),
        "seconds": round(seconds, 1),
        "steps": training[-1]["step"],
        "median_images_per_second": round(
            sorted(row["images_per_second"] for row in training)[len(training) // 2], 1
        ),
        "median_data_wait_fraction": sorted(row["data_wait_fraction"] for row in training)[
            len(training) // 2
        ],
        "colour": {name: colour[name] for name in ("towers", "difference", "p") if name in colour},
        "test": {str(row["views"]): row for row in rows if row["split"] == "test"},
    }


if __name__ == "__main__":
    app.run(main)
