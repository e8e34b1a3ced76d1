"""What are two towers that talk a little worth (section 3.2)?

Against one tower with half of the kernels, the paper's own comparison (its footnote 2: the last
convolution and the fully connected layers stay whole); and against two that never talk, which the
paper does not have but the lab notes do (#150: conv2 a quarter wider and the first fully connected
layer twice as wide, to make up for it).
"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Claim, errors, unchanged
from experiments.labnotes import silent


def half(config: ConfigDict) -> None:
    """The one-GPU net (layers-145-half.cfg)."""
    config.model.towers = 1
    for name in ("conv1", "conv2", "conv3", "conv4"):
        config.model[name].width //= 2


def never_talking(config: ConfigDict) -> None:
    """The same without making up for it."""
    for name in ("conv3", "fc6", "fc7"):
        config.model[name].communicates = False


CLAIM = Claim(
    name="towers",
    section="3.2",
    sentence="Two towers that talk at certain layers err less than one of half the kernels, and "
    "than two that never talk",
    in_2012="1.70 points of 37.47% (2010, ten views), runs #145-half and #145-2010; against towers "
    "that never talk 1.16 of 40.66%, run #150",
    arms={
        "two towers": unchanged,
        "one of half the kernels": half,
        "never talking, wider": silent,
        "never talking": never_talking,
    },
    compare=errors(
        {
            "one of half the kernels": Amount(1.70 / 37.47, "#145-half"),
            "never talking, wider": Amount(1.16 / 40.66, "#150"),
            "never talking": Amount(1.16 / 40.66, "ours, that of #150"),
        }
    ),
    notes=("145-2010", "145-half", "145", "150"),
    applies=lambda config: config.model.towers == 2,
    caveat="the one of half the kernels has a whole conv5 and whole fully connected layers, as in "
    "2012; the wider towers a conv2 of 5/4 and an fc6 of twice the width; where towers do not talk "
    "a layer has half of the inputs and the same initial deviation",
)
