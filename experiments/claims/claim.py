"""What a claim is: networks that differ in one thing, and what is compared of them."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

RATIO, WRONG = "times", "% wrong"  # units: of numbers whose base is 1, of errors
Change = Callable[[ConfigDict], None]  # of a configuration, in place


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What became of a training run.

    Attributes:
        seed: of its weights, masks and order of images.
        test: the last row of its metrics for each number of views, 1 and 10: `top1_error`, ...;
            nothing if its loss was no number any more before that.
        training: of every interval (step, loss, top1_error), means over its images.
        workdir: where it lies, with its weights.
    """

    seed: int
    test: Mapping[int, Mapping[str, float]]
    training: Sequence[tuple[int, float, float]]
    workdir: Path

    def error(self, views: int = 10) -> float:
        """Top-1 error of the test split, in percent; no number if the loss was none any more."""
        return 100 * self.test[views]["top1_error"] if views in self.test else math.nan


Runs = Mapping[str, Sequence[Run]]  # of each arm, in the order of their seeds


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Numbers of two arms, seed by seed.

    Attributes:
        what: is compared, for a table: 'without LRN'.
        unit: of the numbers: `WRONG`, `RATIO`, or another.
        base: one number a seed; no number (NaN) if a run never came to one.
        other: of the same seeds.
        sign: 1 if the claim is that `other` is larger, -1 if that it is smaller.
        size: of the difference that the claim amounts to, in the same unit.
        source: of the size: a run of 2012, '#148', or 'ours'.
    """

    what: str
    unit: str
    base: Sequence[float]
    other: Sequence[float]
    sign: int
    size: float
    source: str = "ours"


class Amount(NamedTuple):
    """What a claim amounts to, as a share of the error of the first network.

    Attributes:
        share: of 1.
        source: the run of 2012 that it is of, '#148', or 'ours'.
    """

    share: float
    source: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the paper, as something that can turn out to be wrong.

    Attributes:
        name: of the command.
        section: of the paper.
        sentence: what is claimed, in our words.
        in_2012: what was found then.
        arms: the networks that are trained: what each changes of the configuration. The first is
            what the others are compared with.
        compare: what is compared.
        caveat: what a reader has to know.
        seeds: how many runs of each arm.
        chosen: by the runs of the first seed, the arms that are trained with the others.
        extra: sentences about what else was seen.
        weights: the trained weights are looked at, and not the errors alone.
        applies: to which configurations; others say nothing of it.
        level: a training error, if the claim is about the way there: the courses are drawn.
        before: networks that are trained first and not compared; an arm whose `init_from` is such a
            name starts from the weights of the same seed.
        dots: what the numbers of a comparison are, whose mean and interval are found.
        notes: the runs of 2012 to stand beside (`experiments.labnotes`).
    """

    name: str
    section: str
    sentence: str
    in_2012: str
    arms: Mapping[str, Change]
    compare: Callable[[Runs], list[Comparison]]
    caveat: str = ""
    seeds: int = 5
    chosen: Callable[[Runs], Collection[str]] | None = None
    extra: Callable[[Runs], list[str]] | None = None
    weights: bool = False
    applies: Callable[[ConfigDict], bool] = lambda config: True
    level: float | None = None
    before: Mapping[str, Change] = dataclasses.field(default_factory=dict)
    dots: str = "seeds"
    notes: Sequence[str] = ("145",)


def unchanged(config: ConfigDict) -> None:
    """The network as it is."""


def errors(
    amounts: Amount | Mapping[str, Amount], views: int = 10, sign: int = 1
) -> Callable[[Runs], list[Comparison]]:
    """Compares the test errors of every arm with those of the first.

    Args:
        amounts: what the claim amounts to, for all arms or for each.
        views: 1 or 10.
        sign: 1 if the others should be worse.
    """

    def compare(runs: Runs) -> list[Comparison]:
        (_, first), *others = runs.items()
        base = [run.error(views) for run in first]
        known = [error for error in base if math.isfinite(error)]
        found = []
        for name, of in others:
            share, source = amounts if isinstance(amounts, Amount) else amounts[name]
            size = share * sum(known) / len(known) if known else math.nan
            other = [run.error(views) for run in of]
            found.append(Comparison(name, WRONG, base, other, sign, size, source))
        return found

    return compare
