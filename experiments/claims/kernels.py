"""Does one tower of conv1 learn colours and the other none, in every run (section 6.1, Figure 3)?

The share of colour of a kernel is that of its squared weights off the grey axis (see
`alexnet_jax.pictures.colour`). How far apart the towers' means are is compared with what chance
gives, the same kernels dealt to two towers at random. One is largely grey that has less than half
of the colour of random weights. In how many runs the towers differ stands beside.
"""

from typing import Any

import numpy as np

from alexnet_jax.evaluation.scores import interval
from alexnet_jax.pictures import colour
from experiments.claims import answers
from experiments.claims.claim import Claim, Comparison, Run, Runs, unchanged

DEALS, SEED = 2000, 0
GREY = 1 / 3  # share of colour: half that of weights that are drawn alike for the three channels


def towers(run: Run) -> dict[str, Any]:
    """What `colour.measure` finds, and the difference that chance gives."""
    network = answers.network(run)
    kernel = np.asarray(network.variables["params"]["conv1"]["kernel"])
    found = colour.measure(kernel, network.viewer.model.network.towers)
    shares = np.concatenate([tower["kernels"] for tower in found["towers"]])
    dealt = np.random.default_rng(SEED).permuted(np.tile(shares, (DEALS, 1)), axis=1)
    halves = dealt.reshape(DEALS, 2, -1).mean(axis=2)
    return found | {"by chance": float(np.abs(halves[:, 0] - halves[:, 1]).mean())}


def compare(runs: Runs) -> list[Comparison]:
    """The difference between the towers, against that of a random deal; the greyer one's colour."""
    (every,) = runs.values()
    found = [towers(run) for run in every]
    base = [one["by chance"] for one in found]
    own = [one["difference"] for one in found]
    grey = [min(tower["mean"] for tower in one["towers"]) for one in found]
    most = [GREY] * len(grey)
    return [
        Comparison("share of colour, tower from tower", "of 1", base, own, 1, 0.2),
        Comparison("share of colour of the greyer, from a third", "of 1", most, grey, -1, 0.2),
    ]


def extra(runs: Runs) -> list[str]:
    """How often the towers differ."""
    (every,) = runs.values()
    found = [towers(run) for run in every]
    differ = sum(one["p"] < 0.05 for one in found)
    means = [sorted(tower["mean"] for tower in one["towers"]) for one in found]
    grey, coloured = np.mean(means, axis=0)
    low, high = interval(differ / len(found), len(found))
    return [
        f"In {differ} of {len(found)} runs ({low:.0%} to {high:.0%} of such runs) the towers "
        f"differ by more than one random deal in twenty would. On average the greyer one has a "
        f"share of colour of {grey:.2f}, the other of {coloured:.2f} (0 is grey, 2/3 random "
        "weights)."
    ]


CLAIM = Claim(
    name="kernels",
    section="6.1, Figure 3",
    sentence="One tower's first kernels have more colour than the other's, which are largely grey",
    in_2012='one tower largely of colours, the other largely of none, in "every run"; '
    "H. Tamura (2024): in most, not in all",
    arms={"the network": unchanged},
    compare=compare,
    extra=extra,
    weights=True,
    applies=lambda config: (
        config.data.source != "fashion_mnist"  # which is grey
        and config.model.towers == 2
    ),
    seeds=30,
)
