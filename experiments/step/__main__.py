"""How fast the network trains and infers: beside PyTorch, onnxruntime and the machine's limits.

    python -m experiments.step [--batch=128] [--dtype=float32] [--startup] [--out=FILE]
    python -m experiments.step --operators

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
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import app, flags

from alexnet_jax import config as config_lib
from experiments.shared import machine, timing
from experiments.shared.timing import Reading, Variant
from experiments.step.contenders import Desk, Failed, Process, Task, Way

Row = dict[str, Any]

FLAGS = flags.FLAGS
flags.DEFINE_list("batch", ["128"], "Images in a training step; several are tried one by one.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
flags.DEFINE_integer("devices", 0, "Devices for JAX; 0: all, and two virtual ones on a CPU.", 0)
flags.DEFINE_integer("rounds", 5, "How often everything is timed.", 1)
flags.DEFINE_float("seconds", 1.0, "Everything runs at least so long in a round.", 0.0)
flags.DEFINE_bool("operators", False, "Time the operators one by one instead.")
flags.DEFINE_bool("startup", False, "Also time the way from a command to its first step.")
flags.DEFINE_string("cache", "", "A prepared dataset: also train from it, input and all.")
flags.DEFINE_string("config", "imagenet", "Whose network it is.")
flags.DEFINE_multi_string("set", [], "Fields of the configuration: model.fc6.width=128")
flags.DEFINE_list("only", ["*"], "Patterns of the rows to time, such as training_*/jax_*")
flags.DEFINE_string("out", None, "Where the readings go; results/step/ beside this file.")

INFERENCE = (32, 1)  # images
WARM_STARTS = 3
# What outcomes may differ by. Where two responses of the full network are all but equal, the last
# digit decides which of them a pooling layer lets through; the second is for bfloat16 and TF32.
EXACT = {"training": 0.02, "inference": 1e-3, "operators": 1e-3}
ROUGH = 0.25
MODULES = {
    "training": ("experiments.step.ways_jax", "experiments.step.ways_torch"),
    "inference": (
        "experiments.step.ways_jax",
        "experiments.step.ways_torch",
        "experiments.step.ways_onnx",
    ),
    "operators": ("experiments.step.operators", "experiments.step.ways_torch"),
}
OURS = ("experiments.step.ways_jax", "experiments.step.operators")  # have to agree
OTHERS = ("torch", "onnx", "onnxruntime")  # packages that only this benchmark speaks of


def main(_: list[str]) -> None:
    """Checks, times, reports."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share a GPU
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile times are wanted
    where = machine.describe()
    where["packages"] |= versions()
    task = Task(
        config=config_lib.override(config_lib.load(FLAGS.config), FLAGS.set),
        dtype=FLAGS.dtype,
        devices=FLAGS.devices,
        threads=where["cores"],
        cache=FLAGS.cache,
    )
    load_before = os.getloadavg()
    rows: list[Row] = []
    not_run: list[Row] = []
    with contextlib.closing(Frameworks(task)) as frameworks:
        where["frameworks"] = frameworks.about
        for task in tasks(frameworks.task):
            done, left_out = session(task, frameworks)
            rows, not_run = rows + done, not_run + left_out
    names = ("batch", "dtype", "rounds", "seconds", "config", "set", "cache", "only")
    result: dict[str, Any] = {
        "command": " ".join(["python -m experiments.step", *sys.argv[1:]]),
        "machine": where,
        "settings": {name: FLAGS[name].value for name in names}
        | {"threads": task.threads, "devices": task.devices, "platform": task.platform},
        "rows": rows,
        "not_run": not_run,
        "startup": startup() if FLAGS.startup else None,
        "load_average": {"before": load_before, "after": os.getloadavg()},
    }
    result["ratios"] = ratios(rows)
    result["targets"] = [] if FLAGS.operators else targets(result)
    name = "operators" if FLAGS.operators else "benchmark"
    out = Path(FLAGS.out or Path(__file__).parents[1] / "results" / "step" / f"{name}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(report(result))
    print(report(result))


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
    kind = "operators" if FLAGS.operators else "training"
    found = [dataclasses.replace(task, kind=kind, batch=int(batch)) for batch in FLAGS.batch]
    if kind == "training":
        found += [dataclasses.replace(task, kind="inference", batch=batch) for batch in INFERENCE]
    return found


# --- processes and rounds -------------------------------------------------------------------------


class Frameworks:
    """The processes: on a CPU one for each framework, on a GPU one for each contender as well,
    because only then is the most memory that a process held that of one contender.

    Attributes:
        about: what each framework says of itself.
        task: with the platform and the devices that JAX has found.
    """

    def __init__(self, task: Task) -> None:
        self.about: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self.task = task
        self.task = self.of("experiments.step.ways_jax")(Desk.found, task)

    def of(self, module: str, key: str = "") -> Process:
        """The process of a contender or, without a key, of a framework.

        Raises:
            Failed: the framework is not installed.
        """
        name = f"{module}/{key}" if self.task.platform == "gpu" and key else module
        if name not in self.processes:
            self.processes[name] = Process(module)
            self.about[module] = self.processes[name](Desk.start, self.task)
        return self.processes[name]

    def clear(self) -> None:
        """Lets all contenders go."""
        for name, process in list(self.processes.items()):
            if "/" in name:
                self.processes.pop(name).end()
            else:
                with contextlib.suppress(Failed):
                    process(Desk.close)

    def close(self) -> None:
        """Ends all processes."""
        for process in self.processes.values():
            process.end()


def session(task: Task, frameworks: Frameworks) -> tuple[list[Row], list[Row]]:
    """Times all ways to do a task in turns: the rows, and what was not run and why.

    Raises:
        ValueError: this network, its plain version or their operators do not agree.
    """
    name = f"{task.kind}_{task.batch}"
    variants, rows, not_run = [], {}, []
    processes: dict[str, tuple[Process, Way]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for module, way in all_ways(task, frameworks, not_run):
            key = f"{name}/{way.key}"
            row = {"key": key, "group": way.group, "name": way.name}
            wanted = any(fnmatch.fnmatch(key, pattern) for pattern in FLAGS.only)
            if not wanted and way.group != "limits":
                not_run.append(row | {"reason": "left out by --only"})
                continue
            say(f"getting ready  {key}")
            try:
                process = frameworks.of(module, key)
                opened = process(Desk.open, way, task, folder)
            except Failed as error:
                not_run.append(row | {"reason": str(error)})
                continue
            if opened.difference is not None and not opened.difference < allowed(task):
                reason = f"its outcome differs by {opened.difference:.2g} from the first"
                if module in OURS:
                    raise ValueError(f"{key}: {reason}")
                not_run.append(row | {"reason": reason})
                continue
            processes[key] = process, way
            rows[key] = row | opened._asdict()

            def run(images: int, process: Process = process, key: str = way.key) -> Reading:
                return process(Desk.run, key, images)

            variants.append(Variant(key, way.group, way.name, run, opened.batch))
    readings: dict[str, list[Reading]] = {key: [] for key in rows}
    say("warming up")
    for number, variant, reading in timing.in_turns(variants, FLAGS.rounds, FLAGS.seconds):
        readings[variant.key].append(reading)
        rate = reading.images / reading.wall_seconds
        say(f"round {number + 1}/{FLAGS.rounds}  {rate:11,.1f} /s  {variant.key}")
    for key, (process, way) in processes.items():
        rows[key] |= timing.summary(readings[key])
        rows[key]["peak_memory"] = process(Desk.memory, way.key)
    frameworks.clear()
    return with_shares(list(rows.values())), not_run


def all_ways(task: Task, frameworks: Frameworks, not_run: list[Row]) -> Iterator[tuple[str, Way]]:
    """Of all frameworks that are there, each with its module."""
    for module in MODULES[task.kind]:
        try:
            ways = frameworks.of(module)(Desk.ways, task)
        except Failed as error:
            group = f"{task.kind}, batch {task.batch}"
            name = module.rpartition("_")[2]
            key = f"{task.kind}_{task.batch}/{name}"
            not_run.append({"key": key, "group": group, "name": name, "reason": str(error)})
            continue
        for way in ways:
            yield module, way


def allowed(task: Task) -> float:
    """What an outcome may differ by."""
    return EXACT[task.kind] if task.dtype == "float32" and task.platform == "cpu" else ROUGH


def startup() -> dict[str, Any]:
    """Seconds from a command to its first training step, without and with compiled programs kept.

    Raises:
        RuntimeError: there was no first step.
    """
    seconds = []
    command = [sys.executable, "-m", "experiments.step.first_step", FLAGS.config, FLAGS.batch[0]]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + WARM_STARTS):
            started = time.perf_counter()
            with subprocess.Popen(
                [*command, *FLAGS.set],
                env=os.environ | {"JAX_COMPILATION_CACHE_DIR": folder},
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout is not None
                line = process.stdout.readline()
                seconds.append(time.perf_counter() - started)
            if line.strip() != "dispatched":
                raise RuntimeError("no first step; see above")
            say(f"start {number}: {seconds[-1]:.1f} s")
    return {"cold": seconds[0], "warm": statistics.median(seconds[1:]), "seconds": seconds}


# --- what came out --------------------------------------------------------------------------------


def with_shares(rows: list[Row]) -> list[Row]:
    """The rows of a session, each with its share of what the machine allows.

    An image takes at least as long as its products take at the rate of a large matrix product, or
    as its bytes take at the rate of a large copy.
    """
    flops, bandwidth = limits(rows)
    for row in rows:
        least = max(row["flops"] / flops, row["bytes"] / bandwidth)
        row["share_of_limit"] = least * row["images_per_second"]["median"]
    return rows


def limits(rows: list[Row]) -> tuple[float, float]:
    """Operations and bytes per second, the best of the frameworks."""

    def best(what: str, work: str) -> float:
        found = [r for r in rows if r["group"] == "limits" and r["key"].endswith(what)]
        return max(row[work] * row["images_per_second"]["median"] for row in found)

    return best("matmul", "flops"), best("copy", "bytes")


def ratios(rows: list[Row]) -> dict[str, float]:
    """Of the medians: this network on one device over the others, session by session."""
    found: dict[str, float] = {}
    by_key = {row["key"]: row for row in rows}
    for key, row in by_key.items():
        session, _, name = key.partition("/")
        rate = row["images_per_second"]["median"]
        if name.endswith("_fast") and key.replace("_fast", "_plain") in by_key:
            plain = by_key[key.replace("_fast", "_plain")]["images_per_second"]["median"]
            found[f"{key.removesuffix('_fast')}_to_plain"] = rate / plain
        if name != "jax_1x1":
            continue
        found[f"{session}/to_limit"] = row["share_of_limit"]
        for other, start in (("plain", "jax_plain"), ("torch", "torch"), ("onnxruntime", "onnx")):
            best = fastest(rows, session, start)
            if best:
                found[f"{session}/to_{other}"] = rate / best["images_per_second"]["median"]
                if row["peak_memory"] and best["peak_memory"]:
                    bytes_, others = row["peak_memory"][0], best["peak_memory"][0]
                    found[f"{session}/memory_to_{other}"] = bytes_ / others
        for other in ("jax_1x2", "jax_2x1", "jax_2x2", "jax_stream"):
            if f"{session}/{other}" in by_key:
                others = by_key[f"{session}/{other}"]["images_per_second"]["median"]
                found[f"{session}/{other}_to_1x1"] = others / rate
    return found


def fastest(rows: list[Row], session: str, start: str) -> Row | None:
    """Of the rows of a session whose names start so; None if there are none."""
    prefix = f"{session}/{start}"
    found = [r for r in rows if r["key"].startswith(prefix) and r["group"] != "limits"]
    return max(found, key=lambda row: row["images_per_second"]["median"], default=None)


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached: a `score` of 1 is just that."""
    found, rows, settings = result["ratios"], result["rows"], result["settings"]
    cpu, start = settings["platform"] == "cpu", result["startup"] or {}
    goals: list[dict[str, Any]] = []

    def goal(
        key: str, what: str, measured: float | None, wanted: float, form: str, less: bool = False
    ) -> None:
        what = what.removesuffix(",") if measured is None else what
        bound = f"at {'most' if less else 'least'} {form.format(wanted)}"
        if measured is None:
            sentence = f"not run: {what}; wanted {bound}"
            goals.append({"key": key, "score": None, "reached": None, "sentence": sentence})
            return
        score = wanted / measured if less else measured / wanted
        how = "reached" if score >= 1 else f"missed by {1 - score:.0%}"
        sentence = f"{how}: {what} {form.format(measured)}; wanted {bound}"
        goals.append({"key": key, "score": score, "reached": score >= 1, "sentence": sentence})

    def times(key: str, what: str, wanted: float, when: bool = True) -> None:
        goal(key, what, found.get(key) if when else None, wanted, "{:.2f}")

    for batch in settings["batch"]:
        name = f"training_{batch}"
        what = f"on a CPU, training at batch {batch}"
        times(f"{name}/to_torch", f"{what}: times the fastest PyTorch,", 1.2, cpu)
        times(f"{name}/to_limit", f"{what}: share of the matrix product's rate", 0.5, cpu)
        times(f"{name}/jax_1x2_to_1x1", f"{what}: two towers on two devices over one,", 0.95, cpu)
    for batch in INFERENCE:
        name, what = f"inference_{batch}", f"on a CPU, inference at batch {batch}: times"
        times(f"{name}/to_torch", f"{what} the fastest PyTorch,", 1.2, cpu)
        times(f"{name}/to_onnxruntime", f"{what} onnxruntime,", 1.0, cpu)
    for key, seconds in (("cold", 40.0), ("warm", 10.0)):
        what = f"from the command to the first step, compilation cache {key},"
        goal(f"startup/{key}", what, start.get(key), seconds, "{:.1f} s", less=True)

    best = {}
    for who in ("jax_1x1", "torch"):
        trained = [fastest(rows, f"training_{batch}", who) for batch in settings["batch"]]
        best[who] = max((r["images_per_second"]["median"] for r in trained if r), default=None)
    narrow = not cpu and settings["dtype"] == "bfloat16"
    what = "on a GPU, training in bfloat16 at the best batch:"
    rate = best["jax_1x1"] if narrow else None
    goal("gpu/images_per_second", f"{what} images/s", rate, 32_000, "{:,.0f}")
    other = rate / best["torch"] if rate and best["torch"] else None
    goal("gpu/to_torch", f"{what} times the fastest PyTorch,", other, 1.3, "{:.2f}")
    for batch in (128, 1024):
        memory = found.get(f"training_{batch}/memory_to_torch") if narrow else None
        what = f"on a GPU, peak memory at batch {batch} over that of the fastest PyTorch,"
        goal(f"gpu/memory_{batch}", what, memory, 1.0, "{:.2f}", less=True)
    return goals


def report(result: dict[str, Any]) -> str:
    """The Markdown page."""
    where, settings = result["machine"], result["settings"]
    packages = where["packages"]
    named = ("jax", "jaxlib", "flax", "optax", "numpy", *OTHERS)
    versions_ = ", ".join(f"{name} {packages[name]}" for name in named if name in packages)
    how = [
        f"Median, least and most of {settings['rounds']} rounds. In each all rows of a heading "
        f"take turns, for {settings['seconds']:g} s or more, synchronised at both ends, and after "
        "a warm-up. No two run at the same time.",
        "All that stands under a heading has first given the same outcome: logits, or the change "
        "of every parameter in a step and three losses, with the same dropout masks.",
        "The limit is the best rate of a large matrix product or, for operators, of a large copy, "
        "measured in turns with the rows.",
        "Training counts three times the products of a forward pass, less the gradient by the "
        "image.",
        "Cores: processor time over the clock's. Fewer than threads: it waited, for itself or for "
        "others on this machine.",
        "Memory: the most that the device held; on a CPU what XLA's compiler planned, and nothing "
        "for the others.",
    ]
    parts = [
        f"# {'The operators' if FLAGS.operators else 'A step'} of the network of "
        f"`{settings['config']}` in {settings['dtype']}",
        f"{where['processor']}, {where['cores']} cores; Python {where['python']}, {versions_}; "
        f"commit {where['commit']}. "
        + "; ".join(f"{text}" for text in where["frameworks"].values())
        + f". Load average before: {result['load_average']['before'][0]:.1f}. "
        f"Made by `{result['command']}`.",
        table(result["rows"]),
        listed(target["sentence"] for target in result["targets"]),
        listed(how_fast(result)),
        listed(how),
        listed(f"not run: {r['group']}: {r['name']}: {r['reason']}" for r in result["not_run"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def listed(sentences: Iterable[str]) -> str:
    """One line each."""
    return "\n".join(f"- {sentence.removesuffix('.')}." for sentence in sentences)


def how_fast(result: dict[str, Any]) -> Iterator[str]:
    """The limits and the ratios that are no targets."""
    sessions = dict.fromkeys(row["key"].partition("/")[0] for row in result["rows"])
    for session in sessions:
        rows = [row for row in result["rows"] if row["key"].startswith(f"{session}/")]
        flops, bandwidth = limits(rows)
        yield (
            f"{session}: the matrix product runs at {flops / 1e9:,.0f} GFLOP/s, the copy at "
            f"{bandwidth / 1e9:,.1f} GB/s"
        )
    aimed = {target["key"] for target in result["targets"]}
    for key, ratio in result["ratios"].items():
        if key not in aimed:
            yield f"{key.replace('_', ' ')}: {ratio:.2f}"


def table(rows: list[Row]) -> str:
    """A Markdown table: rows under the headings of their groups, numbers to the right."""
    head = ("", "per second", "from - to", "ms a step", "of the limit", "cores", "compiled in s")
    cells = [(*head, "memory MB")]
    heading = None
    for row in sorted(rows, key=_place(rows)):
        work = f", {row['flops'] / 1e9:,.2f} GFLOP an image" if "jax_1x1" in row["key"] else ""
        if (row["key"].partition("/")[0], row["group"]) != heading:
            heading = row["key"].partition("/")[0], row["group"]
            cells.append((f"**{row['group']}{work}**", *[""] * len(head)))
        rate, cpu_rate = row["images_per_second"], row["images_per_cpu_second"]
        compiled, memory = row["compile_seconds"], row["peak_memory"]
        cells.append(
            (
                row["name"],
                f"{rate['median']:,.1f}",
                f"{rate['min']:,.1f} - {rate['max']:,.1f}",
                f"{1000 * row['batch'] / rate['median']:,.2f}",
                f"{row['share_of_limit']:.0%}",
                f"{rate['median'] / cpu_rate['median']:.1f}",
                "" if compiled is None else f"{compiled:.1f}",
                "" if memory is None else f"{memory[0] / 1e6:,.0f}",
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in [cells[0], rule, *cells[1:]]:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("| " + " | ".join([first.ljust(widths[0]), *padded]) + " |")
    return "\n".join(lines)


def _place(rows: list[Row]) -> Callable[[Row], tuple[int, int]]:
    """Session by session, one group after the other, and the limits last."""
    sessions = list(dict.fromkeys(row["key"].partition("/")[0] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows if row["group"] != "limits"))
    groups.append("limits")
    return lambda row: (sessions.index(row["key"].partition("/")[0]), groups.index(row["group"]))


if __name__ == "__main__":
    app.run(main)
