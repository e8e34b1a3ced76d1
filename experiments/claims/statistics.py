"""What several seeds say: means with their intervals, paired differences, and a verdict.

The interval is that of Student's t at 95%, over seeds: it says how sure we are of the mean for this
dataset and network, not for others.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.claims.claim import RATIO, Comparison

SEEN, NOT_SEEN = "seen", "not seen"
OPPOSITE, UNKNOWN = "the opposite", "cannot be told at this scale"


class Mean(NamedTuple):
    """A mean over seeds, and its 95% interval."""

    mean: float
    low: float
    high: float


def mean(values: Sequence[float]) -> Mean:
    """The mean; with one value alone nothing is known of its interval. What is no number is left
    out."""
    array = np.array([value for value in values if math.isfinite(value)])
    if not len(array):
        return Mean(math.nan, -math.inf, math.inf)
    middle = float(array.mean())
    if len(array) < 2:
        return Mean(middle, -math.inf, math.inf)
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return Mean(middle, middle - half, middle + half)


def difference(comparison: Comparison) -> Mean:
    """Of each seed the other minus the base: what the two share by chance cancels out.

    Of ratios, whose base is 1, the geometric mean minus 1: half as many is as far from as many as
    twice is.
    """
    found = differences(comparison)
    if comparison.unit == RATIO:
        return Mean(*np.expm1(mean(np.log1p(found).tolist())).tolist())
    return mean(found)


def differences(comparison: Comparison) -> list[float]:
    """Seed by seed; NaN where one of the two has no number."""
    pairs = zip(comparison.base, comparison.other, strict=True)
    return [other - base for base, other in pairs]


def jackknife(statistic: Callable[[Sequence[int]], float], count: int) -> list[float]:
    """What some runs come to only together, as one number for each: their mean is the statistic of
    all, and their standard error the jackknife's (J. Tukey, 1958), by leaving out each in turn.

    Args:
        statistic: of the runs of these numbers.
        count: how many there are, at least 3.
    """
    every = range(count)
    without = np.array([statistic([i for i in every if i != left_out]) for left_out in every])
    return list(statistic(every) + (count - 1) * (without.mean() - without))


def verdict(comparison: Comparison) -> str:
    """One of four.

    *seen*: the whole interval lies on the side that the claim says. *the opposite*: on the other.
    *not seen*: 0 is in it, and the size that the claim amounts to is not. Else it cannot be told:
    the interval holds both, or a run has no number, and what it would be is anyone's guess.
    """
    if not all(map(math.isfinite, differences(comparison))):
        return UNKNOWN
    found = difference(comparison)
    low, high = sorted((comparison.sign * found.low, comparison.sign * found.high))
    if low > 0:
        return SEEN
    if high < 0:
        return OPPOSITE
    return NOT_SEEN if high < comparison.size else UNKNOWN
