"""Would batch norm in LRN's place do better? Readers ask; 2012 had none (it is of 2015)."""

from ml_collections import ConfigDict

from experiments.claims.claim import Amount, Claim, errors, unchanged
from experiments.claims.lrn import AS_148, NORMS, has_norms


def in_its_place(config: ConfigDict) -> None:
    """After the ReLU of conv1 and conv2, where LRN stands."""
    config.model.norm = "batch_norm"


def before_every_relu(config: ConfigDict) -> None:
    """As batch norm is used since: after every convolution."""
    config.model.norm = "batch_norm"
    for number in range(1, 6):
        layer = config.model[f"conv{number}"]
        layer.after = " ".join(["norm", *(w for w in layer.after.split() if w not in NORMS)])


CLAIM = Claim(
    name="batch_norm",
    section="3.3, a reader's question",
    sentence="With batch norm the network errs less than with local response normalisation",
    in_2012="not known then",
    arms={
        "LRN": unchanged,
        "in its place": in_its_place,
        "before every ReLU": before_every_relu,
    },
    compare=errors(Amount(AS_148, "ours, that of #148"), sign=-1),
    applies=has_norms,
    caveat="learning rate and initial weights stay those of LRN's network",
)
