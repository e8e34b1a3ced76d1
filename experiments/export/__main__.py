"""What a narrower export costs and gains: file size, latency and error, by onnxruntime on a CPU.

    python -m experiments.export --workdir=W [--rounds=5] [--seconds=1] [--out=FILE]

Two networks: that of the run W, whose errors on its whole test split are counted in one view, and
the full one of 2012 with random weights, for its size and latency. All precisions of a network are
timed in turns, round by round. What is read goes into the JSON file `--out`, and the page that is
printed also into its neighbour of the same name that ends in .md.
"""

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
from absl import app, flags

import alexnet_jax
from alexnet_jax import cli, export
from alexnet_jax import config as config_lib
from alexnet_jax.data.cache import ensure_cache
from alexnet_jax.model import make_mesh
from alexnet_jax.trained import Trained, softmax
from experiments.shared import machine, timing
from experiments.step import contenders

Row = dict[str, Any]

FLAGS = flags.FLAGS
BATCHES = (1, 32)  # images
NAMES = {"run": "the run", "full": "the network of 2012, random weights"}


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "Directory of a trained run.", required=True)
    flags.DEFINE_integer("rounds", 5, "How often everything is timed.", 1)
    flags.DEFINE_float("seconds", 1.0, "Everything runs at least so long in a round.", 0.0)
    flags.DEFINE_string("out", None, "Where the readings go; results/export/ beside this file.")


def main(_: Any) -> None:
    """Exports, counts, times, reports."""
    jax.config.update("jax_platforms", "cpu")
    load_before = os.getloadavg()
    with cli.mendable(FLAGS.workdir):
        rows = run_rows(Path(FLAGS.workdir)) + full_rows()
    where = machine.describe()
    where["packages"] |= {name: metadata.version(name) for name in ("onnx", "onnxruntime")}
    result = {
        "command": " ".join(["python -m experiments.export", *sys.argv[1:]]),
        "machine": where,
        "settings": {"rounds": FLAGS.rounds, "seconds": FLAGS.seconds},
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "rows": rows,
    }
    out = Path(FLAGS.out or Path(__file__).parents[1] / "results" / "export" / "benchmark.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(report(result))
    print(report(result))


def run_rows(workdir: Path) -> list[Row]:
    """The network of the run, on all images of its test split."""
    trained = alexnet_jax.load(workdir, mesh=make_mesh(1, 1))
    data = trained.config.data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    pixels = export.central(np.asarray(cache.images[data.test]), trained.viewer.crop)
    labels = np.asarray(cache.labels[data.test])
    rows = measure("run", trained, export.calibration_pixels(trained), pixels)
    own = trained.logits(cache.images[data.test])
    for row in rows:
        logits = row.pop("logits")
        row |= errors(logits, labels)
        row["from_own_logits"] = float(np.abs(logits - own).max() / np.abs(own).max())
    return rows


def full_rows() -> list[Row]:
    """The full network; calibrated with random images, which its errors are not counted on."""
    config = config_lib.load("imagenet")
    network = config_lib.network(config)
    variables = {"params": contenders.parameters(network)}
    mean_image = np.full((config.data.size,) * 2 + (3,), 120, np.float32)
    names = [str(label) for label in range(network.classes)]
    trained = Trained("random weights", config, make_mesh(1, 1), variables, mean_image, names, 0)
    pixels = contenders.batch(network, max(BATCHES))["image"]
    rows = measure("full", trained, pixels, pixels)
    for row in rows:
        del row["logits"]
    return rows


def measure(key: str, trained: Trained, calibration: np.ndarray, pixels: np.ndarray) -> list[Row]:
    """Size, latencies and logits in every precision."""
    rows, variants = {}, []
    for precision in export.PRECISIONS:
        content = export.to_onnx(trained, precision, calibration).SerializeToString()
        session = start(content)
        rows[precision] = {
            "network": key,
            "precision": precision,
            "megabytes": len(content) / 1e6,
            "logits": by_session(session, pixels),
        }
        for batch in BATCHES:
            variants.append(variant(f"{precision}/{batch}", session, pixels[:batch]))
    readings: dict[str, list[timing.Reading]] = {v.key: [] for v in variants}
    for _, timed, reading in timing.in_turns(variants, FLAGS.rounds, FLAGS.seconds):
        readings[timed.key].append(reading)
    for precision, row in rows.items():
        for batch in BATCHES:
            calls = readings[f"{precision}/{batch}"]
            for clock in ("wall", "cpu"):
                seconds = [batch * getattr(r, f"{clock}_seconds") / r.images for r in calls]
                row[f"{clock}_milliseconds_{batch}"] = timing.spread([1000 * s for s in seconds])
    return list(rows.values())


def start(content: bytes) -> onnxruntime.InferenceSession:
    """A session with a thread for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def by_session(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """The logits of all images."""
    at_once = max(BATCHES)
    parts = [
        session.run(["logits"], {"pixels": pixels[start : start + at_once]})[0]
        for start in range(0, len(pixels), at_once)
    ]
    return np.concatenate(parts)


def variant(key: str, session: onnxruntime.InferenceSession, pixels: np.ndarray) -> timing.Variant:
    """The session, given the same images again and again."""

    def run(images: int) -> timing.Reading:
        stopwatch = timing.Stopwatch()
        for _ in range(images // len(pixels)):
            session.run(["probabilities"], {"pixels": pixels})
        return stopwatch.read(images)

    return timing.Variant(key, "", key, run, len(pixels))


def errors(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The shares of images whose label is not the first, and not among the first five."""
    given = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = np.sum(~(given > logits), axis=1) - 1  # the label itself is among them
    loss = -np.log(np.take_along_axis(softmax(logits), labels[:, None], axis=1)).mean()
    return {
        "examples": len(labels),
        "top1_error": float(np.mean(ahead >= 1)),
        "top5_error": float(np.mean(ahead >= 5)),
        "loss": float(loss),
    }


def report(result: dict[str, Any]) -> str:
    """The tables, and how they were made."""
    where = result["machine"]
    names = ("onnx", "onnxruntime", "jax", "alexnet_jax")
    packages = ", ".join(f"{name} {where['packages'][name]}" for name in names)
    load = result["load_average"]["before"][0]
    lines = [
        "# Exported networks",
        "",
        f"{where['processor']}, {where['cores']} cores; Python {where['python']}, {packages}; "
        f"commit {where['commit']}. onnxruntime on the CPU with {where['cores']} threads. Load "
        f"average before: {load:.1f}. Made by `{result['command']}`.",
        "",
        "Milliseconds are of one call: by the clock, median and range of the rounds, and of "
        "processor time, waiting threads included. All precisions of a network are timed in turns. "
        "Errors are in one view.",
    ]
    for key, name in NAMES.items():
        rows = [row for row in result["rows"] if row["network"] == key]
        head = ["precision", "MB"]
        for batch in BATCHES:
            head += [f"ms, batch {batch}", "CPU ms"]
        with_errors = "top1_error" in rows[0]
        if with_errors:
            name += f", {rows[0]['examples']:,} test images"
            head += ["top-1 error", "change", "top-5 error", "change"]
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", "| " + " | ".join(head) + " |"]
        lines += ["| --- |" + " ---: |" * (len(head) - 1)]
        for row in rows:
            cells = [row["precision"], f"{row['megabytes']:.1f}"]
            for batch in BATCHES:
                spread = row[f"wall_milliseconds_{batch}"]
                cells.append("{median:,.2f} ({min:,.2f} - {max:,.2f})".format(**spread))
                cells.append(f"{row[f'cpu_milliseconds_{batch}']['median']:,.2f}")
            for kind in ("top1_error", "top5_error") if with_errors else ():
                cells += [f"{row[kind]:.2%}", f"{100 * (row[kind] - rows[0][kind]):+.2f} points"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: cli.parse(argv, define_flags))
