"""Does the full network start to learn, in which reading of the paper and with which change?

    python -m experiments.starts [--variants=paper,reconciled] [--seeds=3] [--steps=300]

A loss that stays at that of chance is the most repeated complaint about this network. Here its
first steps are taken by the training program's own step, at full size, on the embedded pictures at
256 pixels: the three readings, and single changes. At every probe three things are read off 32
images that are the same in all runs, in the network at test: how much the logits differ from image
to image (the standard deviation across images, its mean over classes) and how large they are, and
which share of the units of each layer is above zero. A run has started when its loss, the mean of
ten steps, is below 0.9 times chance, and for good when it stays there. Finished runs stand in
starts.jsonl and are not repeated; a run of 300 steps of 128 images takes some 13 minutes on two CPU
cores, of 32 (--set=batch_size=32) some four, and half a minute on an H200. Writes starts.json,
starts.png and starts.md.
"""

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.evaluation.viewer import Viewer
from alexnet_jax.pictures.saving import save
from alexnet_jax.run.devices import start_devices
from alexnet_jax.run.parts import build
from alexnet_jax.training.loop import input_stream
from alexnet_jax.training.step import initial_state, make_train_step
from alexnet_jax.training.update_rule import update_rule
from experiments.shared import machine
from experiments.shared.command import (
    Flags,
    Results,
    add_fields,
    fields,
    listing,
    number,
    say,
    start,
)
from experiments.shared.journal import Journal
from experiments.shared.machine import made_by
from experiments.shared.tables import listed, table

PROBED = 32  # images
EVERY = 10  # steps from one probe to the next, and that a loss is the mean of
STARTED = 0.9  # of the loss of chance
Row = dict[str, Any]


def std_of_one_hundredth(config: ConfigDict) -> None:
    """As printed: 0.01 in every layer."""
    for name in ("conv3", "conv4", "conv5"):
        config.model[name].std = 0.01


def printed_alpha(config: ConfigDict) -> None:
    """1e-4 for each squared response."""
    config.model.lrn_alpha = 1e-4


def biases(value: float) -> Callable[[ConfigDict], None]:
    """Those that are 1 in 2012 have this value."""

    def change(config: ConfigDict) -> None:
        for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
            config.model[name].bias = value

    return change


def unit_pixels(config: ConfigDict) -> None:
    """Images are divided by 70, about the deviation of their pixels."""
    config.data.lighting_divisor, config.data.lighting_until = 70.0, 1.0


class Variant(NamedTuple):
    """A network that is tried.

    Attributes:
        preset: a reading of the paper.
        words: what is changed, for the page.
        change: of its configuration.
    """

    preset: str
    words: str = "as it is"
    change: Callable[[ConfigDict], None] = lambda config: None


DIVIDED = "images divided by 70, about the deviation of their pixels"
VARIANTS = {
    "reconciled": Variant("reconciled"),
    "paper": Variant("paper"),
    "source": Variant("source"),
    "std-0.01": Variant(
        "reconciled", "conv3 to conv5 drawn at 0.01, not 0.03", std_of_one_hundredth
    ),
    "alpha-1e-4": Variant("reconciled", "LRN's alpha 1e-4, not 2e-5", printed_alpha),
    "biases-0.1": Variant("reconciled", "biases of 0.1, not 1", biases(0.1)),
    "biases-0": Variant("reconciled", "biases of 0, not 1", biases(0.0)),
    "unit-pixels": Variant("reconciled", DIVIDED, unit_pixels),
    "paper-biases-0.1": Variant("paper", "biases of 0.1, not 1", biases(0.1)),
    "paper-unit-pixels": Variant("paper", DIVIDED, unit_pixels),
}


def configuration(variant: str, overrides: Sequence[str]) -> ConfigDict:
    """The full network on the embedded pictures, whose classes are 20."""
    preset, _, change = VARIANTS[variant]
    config = settings.load(f"imagenet:{preset}")
    config.data.source, config.data.size = "embedded", 256
    config.data.train, config.data.validation, config.data.test = "train", "validation", "test"
    config.model.classes = 20
    config.epochs = 90.0  # so that no rate drops
    config.mesh.data = config.mesh.tower = 1
    change(config)
    config = settings.override(config, overrides)
    settings.check(config)
    return config


def main(argv: Sequence[str] | None = None) -> None:
    """Takes the first steps of every variant and seed that is not in the journal."""
    arguments = parse(argv)
    results = Results("starts", arguments)
    journal = Journal(results.path("starts.jsonl"), machine.describe()["commit"])
    jax.config.update("jax_platforms", "cpu") if arguments.cpu else None
    wanted = [(v, seed) for seed in range(arguments.seeds) for v in arguments.variants]
    for variant, seed in wanted:
        key = f"{variant} {seed} {of_all(arguments)}"
        if key not in journal.rows:
            config = configuration(variant, [f"seed={seed}", *fields(arguments)])
            say(f"{variant}, seed {seed}")
            journal.keep(key, variant=variant, seed=seed, **take(config, arguments.steps))
        write(results, alike(journal, arguments))
    print(page(results.made_by(), alike(journal, arguments)))
    results.finish()


def of_all(arguments: argparse.Namespace) -> str:
    """The part of a row's key that rows which stand in one table share: steps and fields."""
    return f"{arguments.steps} {' '.join(fields(arguments))}"


def alike(journal: Journal, arguments: argparse.Namespace) -> list[Row]:
    """The rows of all variants and seeds that took these steps."""
    return [
        row
        for key, row in journal.rows.items()
        if key == f"{row['variant']} {row['seed']} {of_all(arguments)}"
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = Flags("starts", __doc__)
    add = flags.add_argument
    add("--variants", type=listing(), default=",".join(VARIANTS), help="Which of them.")
    add("--seeds", type=number(1), default=3, help="Runs of each.")
    add("--steps", type=number(EVERY), default=300, help="Of each run.")
    add("--cpu", action="store_true", help="Also where there is an accelerator.")
    add_fields(flags)
    arguments = flags.parse(argv)
    for variant in arguments.variants:
        if variant not in VARIANTS:
            flags.error(f"--variants: {variant} is none of {', '.join(VARIANTS)}")
    return arguments


def take(config: ConfigDict, count: int) -> Row:
    """The first steps of a run: losses, and what the probes found."""
    start_devices(config)
    cache, mesh, model = build(config)
    steps = max(
        count, round(config.epochs * len(cache.images[config.data.train]) / config.batch_size)
    )
    optimizer = update_rule(config.optim, steps, model.network.decays())
    step = make_train_step(model, optimizer, cache.mean_image, config, steps)
    state = initial_state(model, optimizer, config.seed)
    viewer = Viewer(model, cache.mean_image, aligned=config.data.mean == "aligned")
    images = jax.device_put(np.asarray(cache.images[config.data.test][:PROBED]), viewer.sharding)
    # As in training: dividing the kernels of conv1 is dividing what they see.
    divisor = config.data.lighting_divisor
    probes, losses = [probe(viewer, divided(state.model(), divisor), images)], []
    with contextlib.closing(
        iter(input_stream(config, cache, model.network, mesh, steps))
    ) as batches:
        for taken in tqdm.trange(1, count + 1, unit="step"):
            state = step(state, next(batches))
            if taken % EVERY == 0:
                running = jax.device_get(state.running)
                losses.append(float(running["loss"] / running["examples"]))
                state = state.replace(running=jax.tree.map(jnp.zeros_like, state.running))
                probes.append(probe(viewer, divided(state.model(), divisor), images))
    chance = math.log(model.network.classes)
    return {"chance": chance, "batch": config.batch_size, "losses": losses, "probes": probes}


def divided(variables: Any, divisor: float) -> Any:
    """A network that does with images what this one does with divided ones."""
    params = dict(variables["params"])
    conv1 = dict(params["conv1"])
    return {
        **variables,
        "params": params | {"conv1": conv1 | {"kernel": conv1["kernel"] / divisor}},
    }


def probe(viewer: Viewer, variables: Any, images: jax.Array) -> Row:
    """What the network at test does with some images."""
    network = viewer.model.network
    layers = {name: f"{name}/activation" for name in (*network.convolutions(), *network.hidden())}
    found = viewer.stages(variables, images, viewer.views[:1], ["fc8", *layers.values()])
    logits = np.asarray(found["fc8"], np.float64)
    return {
        "spread": float(logits.std(axis=0).mean()),
        "size": float(np.abs(logits).mean()),
        "active": {name: float((found[stage] > 0).mean()) for name, stage in layers.items()},
    }


def started(row: Row) -> int | None:
    """The step by which a run has started, if it has."""
    below = _below(row)
    return EVERY * (below.index(True) + 1) if any(below) else None


def started_for_good(row: Row) -> int | None:
    """The step by which its loss has come down to stay, if it has."""
    below = _below(row)
    if not below[-1]:
        return None
    above = [tens for tens, there in enumerate(below, 1) if not there]
    return EVERY * (max(above, default=0) + 1)


def _below(row: Row) -> list[bool]:
    """Of every ten steps, whether their loss is."""
    return [loss < STARTED * row["chance"] for loss in row["losses"]]


def write(results: Results, rows: list[Row]) -> None:
    """All that is known so far."""
    results.trained_at = {row["tree"] for row in rows}
    results.write("starts.json", results.made_by() | {"runs": rows})
    results.write("starts.md", page(results.made_by(), rows))
    draw(rows, results.path("starts.png"))


def page(about: Row, rows: list[Row]) -> str:
    """The Markdown page."""
    lines = []
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        first_there, there = (
            sorted(step for row in own if (step := by(row)) is not None)
            for by in (started, started_for_good)
        )
        first, last = (np.mean([row["probes"][n]["spread"] for row in own]) for n in (0, -1))
        active = np.mean([row["probes"][0]["active"]["fc7"] for row in own])
        loss = np.mean([row["losses"][-1] for row in own])
        lines.append(
            [
                variant,
                f"{len(there)} of {len(own)}",
                ", ".join(map(str, first_there)),
                ", ".join(map(str, there)),
                f"{max(max(row['losses']) for row in own):.2f}",
                f"{first:.4f}",
                f"{last:.3f}",
                f"{active:.0%}",
                f"{loss:.3f}",
            ]
        )
    head = (
        "network", "started for good", "started by step", "for good by step", "highest loss",
        "spread of logits, first", "last", "fc7 active, first", "loss, last",
    )  # fmt: skip
    steps = len(rows[0]["losses"]) * EVERY if rows else 0
    chance = rows[0]["chance"] if rows else 0.0
    batch = rows[0]["batch"] if rows else 0
    return f"""# Does it start?

{table(head, lines)}

The first {steps} steps of the full network, of {batch} of the embedded pictures at 256 pixels; 20
classes, so that chance is a loss of {chance:.3f}. Started: a mean over ten steps below
{STARTED:g} times that; for good: it stays there to the end. The highest loss is that of ten steps
in any of the runs. The spread is the standard deviation of a logit across {PROBED} images,
before the first step and after the last.

{listed(f"`{name}`: `{VARIANTS[name].preset}`, {VARIANTS[name].words}" for name in variants)}

![Losses by step](starts.png)

{made_by(about, ("jax", "alexnet_jax"))}
"""


def draw(rows: list[Row], path: Path) -> Path:
    """Loss, spread of the logits and share of active units of all runs, a colour for each
    variant."""
    figure = Figure(figsize=(8, 9), dpi=120)
    loss, spread, active = every = figure.subplots(3, sharex=True)
    for colour, variant in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        for place, row in enumerate(r for r in rows if r["variant"] == variant):
            look = {"color": f"C{colour}", "lw": 1.2, "label": None if place else variant}
            steps = EVERY * np.arange(len(row["probes"]))
            loss.plot(steps[1:], row["losses"], **look)
            spread.plot(steps, [probe["spread"] for probe in row["probes"]], **look)
            active.plot(steps, [100 * probe["active"]["fc7"] for probe in row["probes"]], **look)
    if rows:
        loss.axhline(rows[0]["chance"], color="0.6", lw=1, ls=":")
    loss.set(ylabel="loss, mean of ten steps", title="The full network's first steps")
    spread.set(ylabel="spread of the logits", yscale="log")
    active.set(ylabel="active units of fc7, %", xlabel="step", ylim=(0, 100))
    loss.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


if __name__ == "__main__":
    start(main)
