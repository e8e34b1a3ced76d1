"""What is read off the course of a run."""

from collections.abc import Sequence

from experiments.claims.claim import Run


def steps_until(run: Run, error: float) -> float | None:
    """The step at which the training error came down to a share.

    Between two rows of the metrics, each a mean over the steps since the one before, it lies on a
    straight line; None if it never came so low.
    """
    before = None
    last = 0
    for step, _, found in run.training:
        middle = (last + step) / 2  # of the steps that the row is the mean of
        if found <= error:
            if before is None:
                return middle
            there, was = before
            return there + (middle - there) * (was - error) / (was - found)
        before, last = (middle, found), step
    return None


def course(runs: Sequence[Run]) -> list[tuple[int, float]]:
    """The steps of the rows of the metrics, and the mean training error of all runs there."""
    rows = zip(*(run.training for run in runs), strict=True)
    return [(row[0][0], round(sum(error for _, _, error in row) / len(row), 4)) for row in rows]
