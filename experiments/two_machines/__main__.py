"""2012 on your desk: two processes with a tower each, and what travels between them.

    python -m experiments.two_machines [--batch=32] [--rounds=5]

Two processes of this machine, which meet as those of two machines do, hold a tower each, as the two
GPUs of the paper did. Their training step is timed in turns with that of one process with two
virtual devices, and of one with one device, all on the CPU. All have to come to the same losses and
parameters. What the towers send each other is read from the compiled program, layer by layer, and
compared with what the loopback device has carried; the time that it takes is read from a profile.
Writes two_machines.json, the page that is printed, and a picture, towers.png.

These are steps alone, in processes that wait for a word before each round: a whole training run of
each kind would not be timed side by side.
"""

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from alexnet_jax.model import Network
from alexnet_jax.settings import load, network, override
from experiments.shared.command import Flags, Results, add_fields, fields, number, say, start
from experiments.shared.machine import cores
from experiments.shared.timing import Reading, Variant, readings, summary
from experiments.step.contender import Failed, Way
from experiments.two_machines import picture
from experiments.two_machines.exchanges import Exchange
from experiments.two_machines.report import PACKAGES, page
from experiments.two_machines.team import Team
from experiments.two_machines.towers import Seat

WAYS = {  # processes, devices
    "apart": ("two processes, a tower each", 2, 2),
    "together": ("one process, two virtual devices", 1, 2),
    "one": ("one process, one device", 1, 1),
}
BOUNDS = {  # that outcomes may differ by from that of one process with two devices
    "together": 0.0,
    "apart": 1e-5,  # as in the tests of meshes
    "one": 0.02,  # as in experiments.step: in another order of sums a pool may choose another pixel
}
LOOPBACK = Path("/proc/net/dev")  # Linux has it


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, times and reports."""
    flags = Flags("two_machines", __doc__)
    add = flags.add_argument
    add("--batch", type=number(1), default=32, help="Images in a training step.")
    add("--rounds", type=number(1), default=5, help="How often everything is timed.")
    add("--seconds", type=number(0.0), default=2.0, help="Everything runs so long a round.")
    add("--steps", type=number(1), default=5, help="Steps that are profiled.")
    add("--config", default="imagenet", help="Whose network it is.")
    add_fields(flags)
    arguments = flags.parse(argv)
    results = Results("two_machines", arguments, PACKAGES)
    try:
        found = measured(arguments)
    except Failed as error:
        raise UserError(f"the processes could not do it: {error}") from error
    result = results.made_by() | found
    results.write("two_machines.json", result)
    picture.of_result(result, results.path("towers.png"))
    results.write_page("two_machines.md", page(result))
    results.finish()


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is found out, for JSON.

    Raises:
        Failed: a process could not do its part.
        UserError: the network has one tower, or the ways do not compute the same.
    """
    config = override(load(arguments.config), fields(arguments))
    if config.model.towers != 2:
        raise UserError(f"--config={arguments.config}: this network has one tower, give another")
    carried: list[float] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        teams: dict[str, Team] = {}
        differences = {}
        for key in ("together", "apart", "one"):  # the first is what the others are compared with
            name, processes, devices = WAYS[key]
            say(f"getting ready  {name}")
            seat = Seat(
                config, config.dtype, devices, cores(), "", "training", arguments.batch,
                processes=processes,
            )  # fmt: skip
            teams[key] = team = Team(Way(key, "", name, "step"), seat)
            stack.callback(team.end)
            differences[key] = max(opened.difference or 0.0 for opened in team.open(folder))
            if not differences[key] <= BOUNDS[key]:
                raise UserError(f"{name}: its outcome differs by {differences[key]:.2g}")

        def apart(images: int) -> Reading:
            before = loopback()
            reading = teams["apart"].run(images)
            carried.append((loopback() - before) / images)
            return reading

        variants = [
            Variant(key, "", name, apart if key == "apart" else teams[key].run, arguments.batch)
            for key, (name, *_) in WAYS.items()
        ]
        timed = readings(variants, arguments.rounds, arguments.seconds, say)
        sent, *others = teams["apart"].ask("exchanges")
        same = teams["together"].ask("exchanges")
        if any(_sums(other) != _sums(sent) for other in (*others, *same)):
            raise UserError("the processes have compiled different exchanges")
        say("profiling")
        spent = exchange_seconds(teams["apart"], arguments.steps, sent)
    rows = [
        {"key": key, "name": name, "difference": differences[key]} | summary(timed[key])
        for key, (name, *_) in WAYS.items()
    ]
    names = ("batch", "rounds", "seconds", "steps", "config", "set")
    return {
        "settings": {name: getattr(arguments, name) for name in names},
        "layers": layers_of(network(config)),
        "rows": rows,
        "exchanges": [exchange._asdict() for exchange in sent],
        "profile": spent,
        # Both directions of both towers; those of the rounds, not of the warm-up.
        "loopback_bytes_per_image": statistics.median(carried[-arguments.rounds :]),
    }


def layers_of(net: Network) -> dict[str, str]:
    """What a tower has of each layer, for the picture."""
    convolutions = {
        name: f"{conv.width // 2} of {conv.kernel}x{conv.kernel}"
        for name, conv in net.convolutions().items()
    }
    dense = {name: f"{layer.width // 2:,} units" for name, layer in net.hidden().items()}
    classes = net.classes // 2 if net.classes % 2 == 0 else net.classes
    return convolutions | dense | {"fc8": f"{classes:,} classes"}


def _sums(found: list[Exchange]) -> list[Exchange]:
    """The same in every order and under every name."""
    return sorted(exchange._replace(instruction="") for exchange in found)


def exchange_seconds(team: Team, steps: int, sent: list[Exchange]) -> dict[str, Any]:
    """The share of the step that the exchanges take.

    An exchange takes as long as in the process that came to it last, which waited for nobody; what
    it takes longer in the other one is waiting.
    """
    names = list(dict.fromkeys(exchange.instruction for exchange in sent))
    profiles = team.ask("profile", steps, set(names))
    found: dict[str, Any] = {}
    for name in names:
        each = [spent.get(name, []) for _, spent in profiles]
        if any(len(spent) != steps for spent in each):
            raise Failed(f"the profile has {name} {[*map(len, each)]} times, not {steps} times")
        travel = [min(together) for together in zip(*each, strict=True)]
        found[name] = {
            "travel": sum(travel) / steps,
            "with_waiting": sum(map(sum, each)) / len(each) / steps,
        }
    return {
        "seconds_per_step": max(seconds for seconds, _ in profiles) / steps,
        "seconds": found,
    }


def loopback() -> float:
    """Bytes that the machine has sent to itself over the network; nan where that is not known."""
    if not LOOPBACK.exists():
        return float("nan")
    for line in LOOPBACK.read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return float(counts.split()[8])
    return float("nan")


if __name__ == "__main__":
    start(main)
