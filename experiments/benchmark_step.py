"""How fast the network trains and infers: beside PyTorch, onnxruntime and the machine's limits.

    python -m experiments.benchmark_step [--batch=128] [--dtype=float32] [--startup] [--out=FILE]
    python -m experiments.benchmark_step --operators

Random images, already where they are needed. Every framework has a process of its own; all ways to
compute a step first have to agree in what comes out, and are then timed in turns, round by round.
All readings go into the JSON file `--out`; the page that is printed also goes into its neighbour of
the same name that ends in .md. What is not installed, or fails, is left out, and the page says so.
"""

import contextlib
import dataclasses
import fnmatch
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import app, flags

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from experiments import contenders, machine, timing
from experiments.contenders import Desk, Failed, Opened, Process, Task, Way
from experiments.timing import Reading, Variant

FLAGS = flags.FLAGS
flags.DEFINE_list("batch", ["128"], "Images in a training step; several are tried one by one.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
flags.DEFINE_integer("devices", 0, "Devices for JAX; 0: all, and two virtual ones on a CPU.", 0)
flags.DEFINE_integer("rounds", 5, "How often everything is timed.", 1)
flags.DEFINE_float("seconds", 2.0, "Everything runs at least so long in every round.", 0.0)
flags.DEFINE_bool("operators", False, "Time the operators one by one instead.")
flags.DEFINE_bool("startup", False, "Also time the way from a command to its first step.")
flags.DEFINE_string("cache", "", "A prepared dataset: also train from it, input and all.")
flags.DEFINE_string("config", "imagenet", "Whose network it is.")
flags.DEFINE_multi_string("set", [], "Fields of the configuration: model.fc6.width=128")
flags.DEFINE_list("only", ["*"], "Patterns of the rows to time, such as training_*/jax_*")
flags.DEFINE_string("out", None, "Where the readings go; results/step/ beside this file.")

INFERENCE = (32, 1)  # images
WARM_STARTS = 3
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.25}  # of outcomes, see `contenders.difference`
MODULES = {
    "training": ("experiments.ways_jax", "experiments.ways_torch"),
    "inference": ("experiments.ways_jax", "experiments.ways_torch", "experiments.ways_onnx"),
    "operators": ("experiments.ways_operators", "experiments.ways_torch"),
}
OTHERS = ("torch", "onnx", "onnxruntime")  # packages that only this benchmark speaks of


def main(_: list[str]) -> None:
    """Checks, times, reports."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share a GPU
    os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # compile times are wanted
    where = machine.describe()
    where["packages"] |= versions()
    config = config_lib.override(config_lib.load(FLAGS.config), FLAGS.set)
    task = Task(
        kind="",
        batch=0,
        config=config,
        dtype=FLAGS.dtype,
        platform="cpu",
        devices=FLAGS.devices or 2,
        threads=where["cores"],
        cache=FLAGS.cache,
    )
    load_before = os.getloadavg()
    with contextlib.closing(Frameworks(task)) as frameworks:
        sessions = [session(task, frameworks) for task in tasks(frameworks.task)]
        where |= {"platform": frameworks.task.platform, "frameworks": frameworks.found}
    rows = [row for rows, _ in sessions for row in rows]
    names = ("batch", "dtype", "devices", "rounds", "seconds", "config", "set", "cache", "only")
    result: dict[str, Any] = {
        "command": " ".join(["python -m experiments.benchmark_step", *sys.argv[1:]]),
        "machine": where,
        "settings": {name: FLAGS[name].value for name in names} | {"threads": task.threads},
        "rows": rows,
        "not_run": [row for _, rows in sessions for row in rows],
        "startup": startup() if FLAGS.startup else None,
        "load_average": {"before": load_before, "after": os.getloadavg()},
    }
    result["ratios"] = ratios(rows)
    result["targets"] = [] if FLAGS.operators else targets(result)
    out = Path(FLAGS.out or Path(__file__).parent / "results" / "step" / f"{name_of_run()}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(report(result))
    print(report(result))


def name_of_run() -> str:
    """Of the files, if nobody gives one."""
    return "operators" if FLAGS.operators else "benchmark"


def say(line: str) -> None:
    """Tells how far it is; the page alone goes to stdout."""
    print(line, file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """Of the packages that are there."""
    found = {}
    for name in OTHERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def tasks(task: Task) -> list[Task]:
    """Those whose ways are timed in turns, each by itself."""
    batches = [int(batch) for batch in FLAGS.batch]
    kind = "operators" if FLAGS.operators else "training"
    found = [dataclasses.replace(task, kind=kind, batch=batch) for batch in batches]
    if kind == "training":
        found += [dataclasses.replace(task, kind="inference", batch=batch) for batch in INFERENCE]
    return found


# --- processes and rounds -------------------------------------------------------------------------


class Frameworks:
    """The processes: on a CPU one for each framework, on a GPU one for each contender, because
    only then is the memory that a device held at most that of one contender."""

    def __init__(self, task: Task) -> None:
        self.processes: dict[str, Process] = {}
        self.found: dict[str, str] = {}
        self.task = task
        answer = self.of("experiments.ways_jax")(Desk.start, task)  # who knows the devices
        platform = answer.pop("platform")
        if platform != "cpu":
            self.close()
            self.task = dataclasses.replace(
                task, platform=platform, devices=FLAGS.devices or answer["devices"]
            )
        self.found["jax"] = answer["jax"]

    def of(self, module: str, key: str = "") -> Process:
        """The process of a contender or, without a key, of a framework."""
        name = f"{module} {key}" if self.task.platform == "gpu" and key else module
        if name not in self.processes:
            process = self.processes[name] = Process(module)
            ...
        return self.processes[name]
