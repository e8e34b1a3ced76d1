"""What are crops, flips and lighting worth (section 4.1)?"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Claim, Runs, errors, unchanged
from experiments.claims.statistics import mean


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


def extra(runs: Runs) -> list[str]:
    """What ten views are worth to a network that saw none of their kind."""
    told = []
    for name, of in runs.items():
        gain, low, high = mean([run.error(1) - run.error(10) for run in of])
        told.append(f"{name} {gain:+.2f} ({low:+.2f} to {high:+.2f})")
    return [f"The error in one view minus that in ten, in points: {', '.join(told)}."]


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
    extra=extra,
    caveat="compared in one view, since ten views are new to a network that saw only central "
    "crops, and five of them to one that saw no mirror images; the question is whether a network "
    "errs more, not whether it overfits",
)
