"""Why 224 and not 227: do the zeros that make 224 into 55 maps a side matter (section 3.5)?

cuda-convnet rounds up and reads zeros beyond the right and lower border; the networks after it give
227 pixels to see instead.
"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Claim, errors, unchanged


def no_zeros(config: ConfigDict) -> None:
    """As many pixels more as there were zeros."""
    zeros = sum(config.model.conv1.padding)
    config.model.input_size += zeros
    config.model.conv1.padding = (0, 0)


CLAIM = Claim(
    name="border",
    section="3.5, a reader's question",
    sentence="With pixels instead of zeros at the border the network errs less",
    in_2012="no trial is noted",
    arms={"zeros": unchanged, "pixels": no_zeros},
    compare=errors(Amount(0.01, "ours"), sign=-1),
    caveat="larger crops leave fewer places to cut them from, which helps where crops raise the "
    "error: see the claim on crops and flips",
    applies=lambda config: config.model.conv1.padding[0] == 0 < config.model.conv1.padding[1],
)
