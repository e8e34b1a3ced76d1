"""Does local response normalisation help (section 3.3)? And the norm that the paper left out?

2012's net without it, #148, lacks the norms of both layers; #167 has that of the first layer alone
and was no worse (40.49% against 40.60% in ten views). The released net has one norm more, over 5x5
pixels of one map, which the paper does not mention (layers-145.cfg:107-117).
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.claims.claim import Claim, Comparison, Runs, errors, unchanged


def without(config: ConfigDict) -> None:
    """As in #148."""
    config.model.norm = "none"


def first_alone(config: ConfigDict) -> None:
    """As in #167."""
    config.model.conv2.after = config.model.conv2.after.replace("norm ", "")


def and_within_maps(config: ConfigDict) -> None:
    """With the norm of the released net, after that of conv2."""
    config.model.conv2.after = config.model.conv2.after.replace("norm ", "norm within_map_norm ")


def compare(runs: Runs) -> list[Comparison]:
    """Test errors: with less normalisation they should be higher, with more of it lower."""
    *less, more = errors(1.37 / 40.66)(runs)
    return [*less, dataclasses.replace(more, sign=-1)]


CLAIM = Claim(
    name="lrn",
    section="3.3",
    sentence="With local response normalisation the network errs less",
    in_2012="1.37 points of 40.66% in ten views, runs #148 and #145; on CIFAR-10 13% to 11%",
    arms={
        "with it": unchanged,
        "without": without,
        "after conv1 alone": first_alone,
        "and within each map": and_within_maps,
    },
    compare=compare,
    caveat="others found no difference on ImageNet at 128 pixels (caffenet-benchmark)",
)
