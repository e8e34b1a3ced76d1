"""How fast the network trains and infers: beside PyTorch, onnxruntime and the machine's limits.

    python -m experiments.step [--batch=128] [--dtype=float32] [--startup]
    python -m experiments.step --operators

Random images, already where they are needed. Every framework has a process of its own; all ways to
compute a step first have to agree in what comes out, and are then timed in turns, round by round.
Writes benchmark.json (with --operators operators.json), with all readings, and the page that is
printed as its neighbour of the same name that ends in .md. What is not installed, or fails, is left
out, and the page says so. Both files are there after the first session, and grow with each. With
`--minutes` every session has its share of them: half to get ready, in the order of the table, and
no further round after it.
"""

import argparse
import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.settings import load, override
from experiments.shared.command import (
    Flags,
    Results,
    add_fields,
    fields,
    listing,
    number,
    start,
)
from experiments.shared.machine import cores
from experiments.step.contender import Task
from experiments.step.ratios import ratios
from experiments.step.report import PACKAGES, report
from experiments.step.session import Frameworks, Session, parts
from experiments.step.startup import startup


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = Flags("step", __doc__)
    add = flags.add_argument
    add("--batch", type=listing(int), default="128", help="Images in a training step; or several.")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the activations.")
    add("--devices", type=number(0), default=0, help="For JAX; 0: all, or two virtual CPUs.")
    add("--rounds", type=number(1), default=5, help="How often everything is timed.")
    add("--seconds", type=number(0.0), default=1.0, help="Everything runs so long a round.")
    add(
        "--minutes",
        type=number(0.0),
        help="On a machine that is rented by the minute: in about so many.",
    )
    add("--operators", action="store_true", help="Time the operators one by one instead.")
    add("--startup", action="store_true", help="Also time a command until its first step.")
    add("--cache", default="", help="A prepared dataset: also train from it, input and all.")
    add("--config", default="imagenet", help="Whose network it is.")
    add_fields(flags)
    add("--only", type=listing(), default="*", help="Patterns of rows, as training_*/jax_*")
    return flags.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, times and reports."""
    arguments = parse(argv)
    results = Results("step", arguments, PACKAGES)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share a GPU
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile times are wanted
    name = "operators" if arguments.operators else "benchmark"
    for measured in measurements(arguments):
        result = results.made_by() | measured
        results.write(f"{name}.json", result)
        results.write(f"{name}.md", report(result))
    print(report(result))
    results.finish()


def measurements(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What has been measured after every session, and at the end with the startup."""
    end = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    task = Task(
        config=override(load(arguments.config), fields(arguments)),
        dtype=arguments.dtype,
        devices=arguments.devices,
        threads=cores(),
        cache=arguments.cache,
    )
    names = ("operators", "batch", "dtype", "rounds", "seconds", "config", "set", "cache", "only")
    measured: dict[str, Any] = {"rows": [], "not_run": [], "startup": None}
    with contextlib.closing(Frameworks(task)) as frameworks:
        task = frameworks.task
        measured["settings"] = {name: getattr(arguments, name) for name in names} | {
            "threads": task.threads,
            "devices": task.devices,
            "platform": task.platform,
        }
        sessions = parts(task, arguments.batch, operators=arguments.operators)
        for left, part in zip(range(len(sessions), 0, -1), sessions, strict=True):
            session = Session(part, frameworks, arguments.only)
            limit = max(0.0 if measured["rows"] else 1.0, (end - time.monotonic()) / left)
            measured["rows"] += session.run(arguments.rounds, arguments.seconds, limit)
            measured["not_run"] += session.not_run
            measured |= {"frameworks": frameworks.about, "ratios": ratios(measured["rows"])}
            if measured["rows"]:
                yield measured
    if not measured["rows"]:
        limits = f"--only={','.join(arguments.only)} in --minutes={arguments.minutes}"
        raise UserError(f"{limits}: no row was run; see --help")
    if arguments.startup:
        first = (arguments.config, arguments.batch[0], fields(arguments))
        yield measured | {"startup": startup(*first)}


if __name__ == "__main__":
    start(main)
