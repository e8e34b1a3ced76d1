"""Is depth important: is the network worse with any one of its layers taken out (section 7)?

Any but conv1, which makes the maps, and the last, which answers. Without fc6 the network is what it
is without fc7, but for its first weights.
"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Change, Claim, errors, unchanged


def take_out(name: str) -> Change:
    """Takes out a layer; if it was pooled, a neighbour that was not is instead."""

    def change(config: ConfigDict) -> None:
        model = config.model
        pooled = name in POOLED and model[name].width and "pool" in model[name].after.split()
        if pooled and "pool" not in model[POOLED[name]].after.split():
            model[POOLED[name]].after += " pool"
        model[name].width = 0

    return change


POOLED = {"conv2": "conv3", "conv5": "conv4"}  # instead
MIDDLE = ("conv2", "conv3", "conv4", "conv5", "fc7")
CLAIM = Claim(
    name="depth",
    section="7",
    sentence="With any of the middle layers taken out the network errs more",
    in_2012='"about 2%" of top-1 error for any of the middle layers (no log of it is left)',
    arms={"all layers": unchanged} | {f"no {name}": take_out(name) for name in MIDDLE},
    compare=errors(Amount(2 / 40.7, "section 7")),
    caveat="initial weights and rates stay those of the whole network; without conv2 there is one "
    "normalisation less, and conv3 is pooled; without conv3 the towers first hear each other at "
    "fc6; without conv5 fc6 sees the maps of conv4, which are more; that conv2 and fc7 count as "
    "middle layers is our reading, and without fc6 the network is that without fc7",
)
