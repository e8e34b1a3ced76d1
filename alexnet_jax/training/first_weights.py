"""Where a run's first weights come from: drawn, or another run's, `--config.init_from=W`.

Fine-tuning, as the paper's "1 CNN*" was made (table 2). W is the directory of a run, or of
converted weights. Each layer that W has with a kernel of the same shape starts from W's last
checkpoint, with its biases and what batch norm keeps; the last layer, fc8, is always drawn again,
and so is what does not fit. Only weights are taken: momentum, schedule and mean image are the run's
own. A run that resumes from a checkpoint of its own no longer looks at W. Where W's network differs
in more than shapes (in its norm, say), a note names the fields.

What a layer has learned is of use only on top of the layers it learned from. So a layer that would
be put on top of one that does not fit is refused; one that would follow a layer that W lacks (such
as conv6) is drawn again. A frozen layer (`optim.rates`) that would stay as drawn is refused too.
"""

import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet, Network, make_mesh
from alexnet_jax.run import hosts
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.run.restore import restore_weights
from alexnet_jax.training import update_rule
from alexnet_jax.training.step import State

Tree = Any

LAST = "fc8"
# Of a network, what is decided by the shapes or no longer matters once there are weights.
NO_MATTER = ("classes", "input_size", "width", "kernel", "std", "bias", "fc8_std", "fc8_bias")


def check_workdir(workdir: Path) -> None:
    """Refuses a directory of converted weights, which look like a run but are none.

    Raises:
        UserError: says how to start a run from them.
    """
    if 0 in _steps(workdir):  # a run saves after a step, so at 1 or later
        raise UserError(
            f"--workdir={workdir} holds weights only, no run to resume: start one elsewhere, "
            f"with --workdir=ANOTHER --config.init_from={shlex.quote(str(workdir))}"
        )


def take(config: ConfigDict, workdir: Path) -> Tree:
    """The weights that a run starts with instead of drawn ones; says which, a line for each layer.

    Reads nothing where the run has a checkpoint of its own. Comes before the data are prepared.

    Args:
        config: of the run; its `init_from` names the other run, W.
        workdir: of the run.

    Returns:
        `params` and `batch_stats` with those layers and arrays only, NumPy float32.

    Raises:
        UserError: W is no run, has no sound checkpoint, or no layer of it fits; or a layer does not
            fit on which others lie that do, or that is frozen.
    """
    taken: Tree = {"params": {}, "batch_stats": {}}
    if not config.init_from or hosts.from_first(lambda: _steps(workdir)):
        return taken
    source = Path(config.init_from).expanduser()
    there, given, step = _read(source)
    wanted = AlexNet(settings.network(config)).shapes()
    print(f"first weights, from step {step:,} of {source}:")
    reasons = _reasons(wanted["params"], given["params"])
    for name, why in reasons.items():
        pace = update_rule.pace(config.optim.rates[name])
        if why:
            print(f"{name}: new{why}{pace}")
            continue
        new = []
        for part in ("params", "batch_stats"):
            here, found = wanted[part].get(name, {}), given[part].get(name, {})
            taken[part][name] = {key: found[key] for key in here if key in found}
            new += [key for key in here if key not in found]
        print(f"{name}: taken{', but new ' * bool(new)}{', '.join(new)}{pace}")
    for name in sorted(given["params"].keys() - wanted["params"].keys()):
        print(f"{name}: left out (no such layer here)")
    for name, gone in _bereft(settings.network(there), taken["params"], wanted["params"]):
        print(f"note: {name} has learned from {gone}, which this network has not")
    if not taken["params"]:
        raise UserError(
            f"--config.init_from={config.init_from}: no layer of its network but {LAST} fits this "
            "one; choose the --config that it was trained with, or --config=finetune, which takes "
            "its network, or leave init_from out"
        )
    _check(config, reasons)
    differing = _differing(there, config, taken["params"])
    if differing:
        print(f"note: the network of {source} has {differing}, this one has not")
    return taken


def start(state: State, taken: Tree) -> State:
    """The state with the weights of `take` in the place of the drawn ones, where those lay."""

    def replaced(part: str, own: Tree) -> Tree:
        return {
            name: {
                key: hosts.place(given[key], array.sharding) if key in given else array
                for key, array in arrays.items()
            }
            for name, arrays in own.items()
            for given in [taken[part].get(name, {})]
        }

    return state.replace(
        params=replaced("params", state.params),
        batch_stats=replaced("batch_stats", state.batch_stats),
    )


def _steps(workdir: Path) -> list[int]:
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()


def _read(source: Path) -> tuple[ConfigDict, Tree, int]:
    """The configuration, the weights of the last checkpoint as NumPy arrays, and its step."""
    with hosts.together():
        config = settings.read_source(str(source))
    try:
        mesh = make_mesh(1, 1, devices=jax.local_devices())  # of one tower or two: one holds both
        variables, record = restore_weights(config, source, mesh)
    except UserError as error:
        raise type(error)(f"--config.init_from={source}: {error}") from error
    return config, jax.tree.map(np.asarray, variables), int(record["step"])


def _misfit(name: str, here: Tree, there: Tree | None) -> str:
    """Why a layer cannot be taken; empty if it can."""
    if name == LAST:
        return " (the last layer)"
    if there is None:
        return " (no such layer there)"
    shapes = [arrays["kernel"].shape for arrays in (here, there)]
    return "" if shapes[0] == shapes[1] else f", {shapes[0]} here, {shapes[1]} there"


def _reasons(here: Tree, there: Tree) -> dict[str, str]:
    """Why each layer cannot be taken, as `_misfit` says, or because of one below that is not there;
    empty if it can."""
    found, below = {}, ""
    for name, arrays in here.items():
        found[name] = _misfit(name, arrays, there.get(name))
        if below and not found[name]:
            found[name] = f" (it follows {below}, which is new)"
        if name not in there:
            below = below or name
    return found


def _bereft(there: Network, taken: Tree, here: Tree) -> Iterator[tuple[str, str]]:
    """The layers that are taken, but not what they lay on; with that."""
    for below, name in itertools.pairwise(there.layers()):
        if name in taken and below not in here:
            yield name, below


def _check(config: ConfigDict, reasons: dict[str, str]) -> None:
    """Refuses what would be of no use.

    Args:
        config: of the run.
        reasons: why each layer is not taken, in the order of the network; the last never is.

    Raises:
        UserError: a layer would lie on one that does not fit, or is frozen as it is drawn.
    """
    named, names = f"--config.init_from={config.init_from}", list(reasons)
    first = next(number for number, name in enumerate(names) if reasons[name])
    taken = [name for name in names[first:] if not reasons[name]]
    if taken:
        new = [name for name in names[first : names.index(taken[-1])] if reasons[name]]
        raise UserError(
            f"{named}: {', '.join(taken)} would be taken onto {', '.join(new)}, drawn anew because "
            "of other shapes here than there, and know nothing of what those say: take all of its "
            "network, by --config=finetune"
        )
    for name in names[first:]:
        if config.optim.rates[name] == 0:
            raise UserError(
                f"{named}: {name} is new{reasons[name]}, and would be frozen as it was drawn: give "
                f"--config.optim.rates.{name} a number above 0"
            )


def _differing(there: ConfigDict, here: ConfigDict, taken: Tree) -> str:
    """The fields of the other network that this one lacks and that its weights were made for."""
    before, now = (settings.flatten(config.model) for config in (there, here))
    found = []
    for field, value in before.items():
        layer, dot, last = field.rpartition(".")
        matters = last not in NO_MATTER and (not dot or layer in taken)
        if matters and now[field] != value:
            found.append(f"--config.model.{field}={value}")
    return shlex.join(found)
