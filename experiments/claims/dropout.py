"""Does the network overfit without dropout, and does dropout need twice the iterations (4.2)?

To overfit is to know the training images better than others. Both are asked of the network at
test, in one view, for in training half of it is missing and the images are changed.
"""

from ml_collections import ConfigDict

from experiments.claims import answers
from experiments.claims.claim import RATIO, Amount, Claim, Comparison, Runs, errors
from experiments.claims.curves import steps_until

TRAINING_ERROR = 0.5  # that is to be reached: early enough that all runs do
ROW = 25  # steps that a training error is the mean of, at most


def with_it(config: ConfigDict) -> None:
    """As it is, but for how finely its course is told."""
    config.log_every = min(config.log_every, ROW)


def without(config: ConfigDict) -> None:
    """Every unit stays."""
    with_it(config)
    config.model.dropout = 0.0


def compare(runs: Runs) -> list[Comparison]:
    """Test errors; how much worse the test is than training; steps to the same training error."""
    arms = runs["dropout"], runs["without"]
    less, more = (
        [answers.loss(run, "test") - answers.loss(run, "train") for run in of] for of in arms
    )
    dropped, kept = ([steps_until(run, TRAINING_ERROR) for run in of] for of in arms)
    ratios = [there / here for here, there in zip(kept, dropped, strict=True)]
    return [
        *errors(Amount(1 / 20, "ours"))(runs),
        Comparison("without: loss of the test minus that of training", "nats", less, more, 1, 0.1),
        Comparison(
            f"steps to {TRAINING_ERROR:.0%} training error, with it in those without",
            RATIO,
            [1.0] * len(ratios),
            ratios,
            1,
            1.0,
            "section 4.2",
        ),
    ]


CLAIM = Claim(
    name="dropout",
    section="4.2",
    sentence="Without dropout the network overfits; with it, it takes twice the steps",
    in_2012='"substantial overfitting", "roughly doubles" (no log of it is left)',
    arms={"dropout": with_it, "without": without},
    compare=compare,
    level=TRAINING_ERROR,
    caveat="training errors with dropout are those of a network of which half is missing; the two "
    "losses are those of whole networks, on unchanged images; a gap that grows is less than "
    "substantial overfitting, and the steps are counted early, to 50%, where in 2012 they were "
    "those of a whole training; as nothing makes up in training for the units that are missing, "
    "without dropout fc7 and the last layer receive twice as much there, at the same initial "
    "weights and rates",
    weights=True,
)
