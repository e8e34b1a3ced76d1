"""Does a start from a network that saw other images lower the error ("1 CNN*", section 6.1)?

In 2012 the network with a sixth convolution was first trained on all of ImageNet, and then
fine-tuned on ILSVRC-2012. Here the other images are those of the embedded dataset as it is in the
README, patterns and hues; every layer but the last comes from there. As in 2012 a tenth of the rate
is tried as well, against the network at its own rate and against one from nothing at that tenth.
"""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Change, Claim, Comparison, Runs, errors, unchanged

FIRST = "other images"
AMOUNT = Amount(1.67 / 40.66, "#146-2012-2011")
NOTHING, OTHERS = "from nothing", "after other images"
SLOW_NOTHING, SLOW_OTHERS = (f"{start}, a tenth of the rate" for start in (NOTHING, OTHERS))


def on_other_images(config: ConfigDict) -> None:
    """The same network, trained on 6,000 of the embedded pictures, as many steps."""
    config.epochs = config.epochs * TRAINED_ON[images_of(config)] / 6_000
    config.data.source, config.data.cache, config.data.holdout = "embedded", None, 0.0
    config.data.train, config.data.test = "train", "test"
    config.model.classes = 20


TRAINED_ON = {("embedded/hard", 0.0): 1_000, ("fashion_mnist", 50_000.0): 10_000}


def images_of(config: ConfigDict) -> tuple[str, float]:
    """What the training images are, and how many of them are set aside."""
    return config.data.source, config.data.holdout


def at_a_tenth(config: ConfigDict) -> None:
    """From nothing, at the rate of a fine-tuning."""
    config.optim.learning_rate *= 0.1


def from_there(share: float) -> Change:
    """Starts from the weights of that network.

    Args:
        share: of the rate, that the fine-tuning has.
    """

    def change(config: ConfigDict) -> None:
        config.init_from = FIRST
        config.optim.learning_rate *= share

    return change


def compare(runs: Runs) -> list[Comparison]:
    """With the network as it is; at a tenth of the rate with one that has that rate as well."""
    both = f"{OTHERS}, both at a tenth of the rate"
    pairs = ((NOTHING, OTHERS, OTHERS), (NOTHING, SLOW_OTHERS, SLOW_OTHERS),
             (SLOW_NOTHING, SLOW_OTHERS, both))  # fmt: skip
    against = errors(AMOUNT, sign=-1)
    return [one for base, of, what in pairs for one in against({base: runs[base], what: runs[of]})]


def the_start(runs: Runs) -> list[str]:
    """How far the networks are when the first row of the metrics is written."""
    step = runs[NOTHING][0].training[0][0]
    early = {arm: 100 * sum(run.training[0][2] for run in of) / len(of) for arm, of in runs.items()}
    return [
        f"Over the first {step} steps {early[NOTHING]:.0f}% of the training images are wrong from "
        f"nothing and {early[OTHERS]:.0f}% after other images; at a tenth of the rate "
        f"{early[SLOW_NOTHING]:.0f}% and {early[SLOW_OTHERS]:.0f}%."
    ]


CLAIM = Claim(
    name="pretraining",
    section="6.1, 1 CNN*",
    sentence="A network that saw other images before errs less than one that starts from nothing",
    in_2012="1.67 points of 40.66% (38.99%), with a sixth convolution, #146-2012-2011 and #145",
    before={FIRST: on_other_images},
    arms={
        NOTHING: unchanged,
        OTHERS: from_there(1.0),
        SLOW_NOTHING: at_a_tenth,
        SLOW_OTHERS: from_there(0.1),
    },
    compare=compare,
    extra=the_start,
    notes=("145", "146-2012-2011"),
    caveat="the other images are 6,000 drawn ones of patterns and hues, and the training on them "
    "takes as many steps again; for `embedded_hard` they are of the same 20 classes, drawn like "
    "the easy half of its images; in 2012 they were photos, those of ILSVRC-2012 among them",
    applies=lambda config: images_of(config) in TRAINED_ON,
)
