"""What is read off the course of a run."""

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
