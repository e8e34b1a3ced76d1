"""Do several networks together err less than one (section 6.1, "5 CNNs")? Would another mean do?"""

import numpy as np

from experiments.claims import answers
from experiments.claims.claim import Claim, Comparison, Runs, unchanged


def compare(runs: Runs) -> list[Comparison]:
    """The mean of all probabilities against every network alone; and, of all but one network each
    time, the mean of the probabilities' logarithms against that of the probabilities."""
    (every,) = runs.values()
    _, labels = answers.test_images(every[0])
    each = np.stack(answers.probabilities(every))
    alone = [answers.wrong(one, labels) for one in each]
    together = [answers.wrong(each.mean(axis=0), labels)] * len(each)
    rest = [np.delete(each, number, axis=0) for number in range(len(each))]
    by_mean = [answers.wrong(some.mean(axis=0), labels) for some in rest]
    by_logarithms = [answers.wrong(np.log(some + 1e-12).mean(axis=0), labels) for some in rest]
    size = 2.6 / 40.7 * sum(alone) / len(alone)
    what = f"mean of the probabilities of {len(every)}"
    return [
        Comparison(what, "% wrong", alone, together, -1, size),
        Comparison("mean of their logarithms instead", "% wrong", by_mean, by_logarithms, -1, size),
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
