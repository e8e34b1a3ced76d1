"""Do several networks together err less than one (section 6.1, "5 CNNs")? Would another mean do?"""

import numpy as np

from experiments.claims import answers
from experiments.claims.claim import Claim, Comparison, Runs, unchanged


def compare(runs: Runs) -> list[Comparison]:
    """The mean of all probabilities, and that of their logarithms, against every network alone."""
    (every,) = runs.values()
    _, labels = answers.test_images(every[0])
    each = np.stack(answers.probabilities(every))
    alone = [answers.wrong(one, labels) for one in each]
    together = answers.wrong(each.mean(axis=0), labels)
    by_logarithms = answers.wrong(np.log(each + 1e-12).mean(axis=0), labels)
    size = 2.6 / 40.7 * sum(alone) / len(alone)
    what = f"mean of the probabilities of {len(every)}"
    return [
        Comparison(what, "% wrong", alone, [together] * len(alone), -1, size),
        Comparison(
            "mean of their logarithms instead",
            "% wrong",
            [together],
            [by_logarithms],
            -1,
            size,
        ),
    ]


CLAIM = Claim(
    name="ensemble",
    section="6.1",
    sentence="The mean answer of five networks is wrong less often than that of one",
    in_2012="2.6 points of 40.7% (38.1%), in ten views",
    arms={"the network": unchanged},
    compare=compare,
    caveat="the five that are averaged are the five that are compared with it",
    weights=True,
)
