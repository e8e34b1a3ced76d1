"""Does the network overfit without dropout, and does dropout need twice the iterations (4.2)?"""

from ml_collections import ConfigDict

from experiments.claims.claim import Claim, Comparison, Runs, unchanged
from experiments.claims.curves import steps_until

TRAINING_ERROR = 0.5  # that is to be reached: early enough that all runs do


def without(config: ConfigDict) -> None:
    """Every unit stays."""
    config.model.dropout = 0.0


def compare(runs: Runs) -> list[Comparison]:
    """Test errors; how much worse the test is than training; steps to the same training error."""
    kept, dropped = runs["without"], runs["dropout"]
    error = [run.error() for run in dropped]
    found = [
        Comparison(
            "without", "% wrong", error, [r.error() for r in kept], 1, sum(error) / len(error) / 20
        )
    ]
    gaps = [[run.test[1]["loss"] - run.training[-1][1] for run in arm] for arm in (dropped, kept)]
    found.append(Comparison("without: test loss minus training loss", "nats", *gaps, 1, 0.1))
    steps = [[steps_until(run, TRAINING_ERROR) for run in arm] for arm in (kept, dropped)]
    if not any(count is None for arm in steps for count in arm):
        ratios = [there / here for here, there in zip(*steps, strict=True)]
        ones = [1.0] * len(ratios)
        what = f"with: steps to {TRAINING_ERROR:.0%} training error, of those without"
        found.append(Comparison(what, "times", ones, ratios, 1, 1.0))
    return found


CLAIM = Claim(
    name="dropout",
    section="4.2",
    sentence="Without dropout the network overfits; with it, it takes twice the steps",
    in_2012='"substantial overfitting", "roughly doubles" (no log of it is left)',
    arms={"dropout": unchanged, "without": without},
    compare=compare,
    level=TRAINING_ERROR,
    caveat="training errors with dropout are those of a network of which half is missing",
)
