"""Are ten views better than one (section 4.1)?"""

from experiments.claims.claim import WRONG, Claim, Comparison, Runs, unchanged


def compare(runs: Runs) -> list[Comparison]:
    """The same networks, asked once and ten times."""
    (every,) = runs.values()
    ten = [run.error(10) for run in every]
    one = [run.error(1) for run in every]
    size = (39.02 - 37.47) / 37.47 * sum(ten) / len(ten)
    return [Comparison("one view", WRONG, ten, one, 1, size, "#145-2010")]


CLAIM = Claim(
    name="views",
    section="4.1",
    sentence="The mean answer to ten views of an image is right more often than that to one",
    in_2012="39.02% in one view, 37.47% in ten (2010), run #145-2010",
    arms={"the network": unchanged},
    compare=compare,
    notes=("145-2010", "169", "170"),
    caveat="it depends on the training crops: what ten views are worth to networks that saw no "
    "crops, or no mirror images, stands with the claim about those",
)
