"""What are crops, flips and lighting worth (section 4.1)?"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Claim, errors, unchanged


def no_flips(config: ConfigDict) -> None:
    """Training crops are never mirrored."""
    config.data.flip = False


def no_crops(config: ConfigDict) -> None:
    """Training crops all lie in the centre."""
    config.data.crop = False


def neither(config: ConfigDict) -> None:
    """The first form of augmentation is left out."""
    no_flips(config)
    no_crops(config)


CLAIM = Claim(
    name="augmentation",
    section="4.1",
    sentence="Without crops and flips the network errs more",
    in_2012='"substantial overfitting" (no log of it is left)',
    arms={
        "crops and flips": unchanged,
        "no flips": no_flips,
        "no crops": no_crops,
        "neither": neither,
    },
    compare=errors(Amount(1 / 20, "ours"), views=1),
    caveat="compared in one view, since ten views are new to a network that saw only central "
    "crops, and five of them to one that saw no mirror images; the question is whether a network "
    "errs more, not whether it overfits",
)
