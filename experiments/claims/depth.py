"""Is depth important: is the network worse with any one of its layers taken out (section 7)?"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Change, Claim, errors, unchanged


def take_out(name: str) -> Change:
    """Takes out a layer; if it was pooled, the one before is."""

    def change(config: ConfigDict) -> None:
        model = config.model
        there = model[name].width > 0
        model[name].width = 0
        if name == "conv5" and there:
            model.conv4.after = model.conv5.after

    return change


CLAIM = Claim(
    name="depth",
    section="7",
    sentence="With any of the middle layers taken out the network errs more",
    in_2012='"about 2%" of top-1 error for any of the middle layers (no log of it is left)',
    arms={"all layers": unchanged}
    | {f"no {name}": take_out(name) for name in ("conv3", "conv4", "conv5", "fc7")},
    compare=errors(Amount(2 / 40.7, "section 7")),
    caveat="initial weights and rates stay those of the whole network; without conv3 the towers "
    "first hear each other at fc6, without conv5 fc6 sees the maps of conv4, which are more; that "
    "fc7 counts as a middle layer is our reading",
)
