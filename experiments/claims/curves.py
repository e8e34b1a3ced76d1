"""What is read off the course of a run."""

import math
from collections.abc import Sequence

from experiments.claims.claim import Run


def steps_until(run: Run, error: float) -> float:
    """The step at which the training error came down to a share.

    Between two rows of the metrics, each a mean over the steps since the one before, it lies on a
    straight line, and before the first on one from all being wrong; NaN if it never came so low.
    """
    there, was, last = 0.0, 1.0, 0
    for step, _, found in run.training:
        middle = (last + step) / 2  # of the steps that the row is the mean of
        if found <= error:
            return there + (middle - there) * (was - error) / (was - found)
        there, was, last = middle, found, step
    return math.nan


def course(runs: Sequence[Run]) -> list[tuple[int, float]]:
    """The steps of the rows of the metrics, and the mean training error of all runs there, as far
    as all went."""
    rows = zip(*(run.training for run in runs), strict=False)
    return [(row[0][0], round(sum(error for _, _, error in row) / len(row), 4)) for row in rows]


def at_the_end(run: Run) -> float:
    """The training error in percent, over the last tenth of the steps; NaN without a step."""
    total = run.training[-1][0] if run.training else 0
    sums, last = [0.0, 0.0], 0
    for step, _, error in run.training:
        if step > 0.9 * total:
            sums[0] += (step - last) * error
            sums[1] += step - last
        last = step
    return 100 * sums[0] / sums[1] if total else math.nan
