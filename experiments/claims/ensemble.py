"""Do several networks together err less than one (section 6.1, "5 CNNs")? Would another mean do?"""

from collections.abc import Sequence

import numpy as np

from experiments.claims import answers
from experiments.claims.claim import WRONG, Claim, Comparison, Runs, unchanged
from experiments.claims.statistics import jackknife


def compare(runs: Runs) -> list[Comparison]:
    """The mean of all probabilities against the networks alone; and the mean of the probabilities'
    logarithms against it."""
    (every,) = runs.values()
    _, labels = answers.images(every[0], "test")
    each = np.stack(answers.probabilities(every))
    alone = [answers.wrong(one, labels) for one in each]

    def together(members: Sequence[int]) -> float:
        return answers.wrong(each[list(members)].mean(axis=0), labels)

    def gained(members: Sequence[int]) -> float:
        return together(members) - float(np.mean([alone[member] for member in members]))

    def by_logarithms(members: Sequence[int]) -> float:
        logarithms = np.log(each[list(members)] + 1e-12)
        return answers.wrong(logarithms.mean(axis=0), labels) - together(members)

    mean = sum(alone) / len(alone)
    whole = [together(range(len(each)))] * len(each)
    what = f"mean of the probabilities of {len(every)}"
    return [
        Comparison(
            what,
            WRONG,
            alone,
            plus(alone, jackknife(gained, len(each))),
            -1,
            2.6 / 40.7 * mean,
            "Table 2",
        ),
        Comparison(
            f"mean of the logarithms, not the probabilities, of {len(every)}",
            WRONG,
            whole,
            plus(whole, jackknife(by_logarithms, len(each))),
            -1,
            0.01 * whole[0],
        ),
    ]


def plus(base: Sequence[float], differences: Sequence[float]) -> list[float]:
    """Number by number."""
    return [one + difference for one, difference in zip(base, differences, strict=True)]


CLAIM = Claim(
    name="ensemble",
    section="6.1",
    sentence="The mean answer of five networks is wrong less often than that of one",
    in_2012="2.6 points of 40.7% (38.1%), in ten views",
    arms={"the network": unchanged},
    compare=compare,
    caveat="the interval is the jackknife's, over which networks are averaged, not over images",
    weights=True,
    dots="the jackknife's pseudo-values, each without one network",
)
