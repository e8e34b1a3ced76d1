"""What does each tower know: which answers suffer when one is silenced?

The classes of the embedded dataset are a hue and a pattern each, so that what a tower is good for
can be told: when its maps are taken away from all that sees them (conv3 of both towers, and fc6),
is the hue lost, or the pattern? H. Tamura, Scientific Reports 14:9097 (2024), is the study of
ImageNet's classes to stand beside.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.evaluation.why import silenced
from alexnet_jax.pictures import colour
from experiments.claims import answers
from experiments.claims.claim import Claim, Comparison, Run, Runs, unchanged


class Lost(NamedTuple):
    """How many more answers are wrong, in points.

    Attributes:
        coloured: in their hue and in their pattern, without the tower whose first kernels have more
            colour.
        other: the same without the other one.
        classes: (2, classes), those to images of each class, without either.
        names: of the classes.
        differ: whether the towers differ in colour by more than a random deal in twenty would.
    """

    coloured: tuple[float, float]
    other: tuple[float, float]
    classes: np.ndarray
    names: list[str]
    differ: bool


@functools.cache
def lost(run: Run) -> Lost:
    """What the test images lose without either tower."""
    network = answers.network(run)
    images, labels = answers.images(run, "test")
    names = [name.split("-", 1) for name in network.class_names]
    hues, patterns = (np.unique(part, return_inverse=True)[1] for part in zip(*names, strict=True))
    kernel = np.asarray(network.variables["params"]["conv1"]["kernel"])
    measured = colour.measure(kernel, 2)
    coloured = int(np.argmax([tower["mean"] for tower in measured["towers"]]))

    def errors(network: TrainedNetwork) -> np.ndarray:
        """Of hues, of patterns, and of each class."""
        said = network.predict(images, batch_size=128).argmax(axis=1)
        parts = [np.mean(of[said] != of[labels]) for of in (hues, patterns)]
        classes = np.bincount(labels, said != labels) / np.bincount(labels)
        return 100 * np.array([*parts, *classes])

    whole = errors(network)
    without = [errors(silenced(network, tower)) - whole for tower in (coloured, 1 - coloured)]
    (hue, pattern), (other_hue, other_pattern) = (map(float, found[:2]) for found in without)
    return Lost(
        coloured=(hue, pattern),
        other=(other_hue, other_pattern),
        classes=np.array([found[2:] for found in without]),
        names=network.class_names,
        differ=measured["p"] < 0.05,
    )


def compare(runs: Runs) -> list[Comparison]:
    """Hues and patterns lost with one tower against those lost with the other."""
    (every,) = runs.values()
    found = [lost(run) for run in every]
    return [
        Comparison(
            f"{what} lost: the coloured tower silenced, against the other",
            "points wrong",
            [one.other[part] for one in found],
            [one.coloured[part] for one in found],
            sign,
            5.0,
        )
        for part, (what, sign) in enumerate((("hues", 1), ("patterns", -1)))
    ]


def extra(runs: Runs) -> list[str]:
    """The same, of the runs in which one tower is the coloured one beyond doubt; and which classes
    suffer."""
    (every,) = runs.values()
    return [of_those_that_differ([lost(run) for run in every]), suffering(*map(lost, every))]


def suffering(*found: Lost) -> str:
    """The classes that lose most and least without either tower, on the mean of all runs."""
    told = []
    for tower, points in zip(
        ("the coloured tower", "the other"), np.mean([one.classes for one in found], 0), strict=True
    ):
        order = np.argsort(points)
        least, most = (
            ", ".join(f"{found[0].names[of]} ({points[of]:+.0f})" for of in some)
            for some in (order[:3], order[:-4:-1])
        )
        told.append(f"without {tower} {most}, and least {least}")
    return f"The classes that lose most are, in points, {'; '.join(told)}."


def of_those_that_differ(every: Sequence[Lost]) -> str:
    """The differences of the runs whose towers differ in colour."""
    found = [one for one in every if one.differ]
    if not found:
        return "In none of the runs do the towers differ in colour by more than chance deals."
    hue, pattern = np.mean([np.subtract(one.coloured, one.other) for one in found], axis=0)
    return (
        f"In the {len(found)} of {len(every)} runs whose towers differ in colour by more than one "
        f"random deal in twenty would, the differences are {hue:+.1f} and {pattern:+.1f} points."
    )


CLAIM = Claim(
    name="lesions",
    section="6.1, a reader's question",
    sentence="Without the tower with the colours in conv1 more hues are lost, without the other "
    "more patterns",
    in_2012="not tried; H. Tamura (2024): without a stream some classes suffer and others do not",
    arms={"the network": unchanged},
    compare=compare,
    extra=extra,
    caveat="in one view; a tower is silenced where others hear it, at conv3 and fc6; guessing "
    "gets three of four hues wrong, and four of five patterns; the coloured tower is the one with "
    "more colour, by however little",
    weights=True,
    applies=lambda config: config.data.source.startswith("embedded") and config.model.towers == 2,
    seeds=30,
)
