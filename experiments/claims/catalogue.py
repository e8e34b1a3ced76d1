"""All claims, in the order of the paper."""

from experiments.claims import (
    augmentation,
    batch_norm,
    border,
    depth,
    dropout,
    ensemble,
    kernels,
    lesions,
    lighting,
    lrn,
    neighbours,
    pooling,
    pretraining,
    relu,
    towers,
    views,
)
from experiments.claims.claim import Claim

MODULES = (
    relu,
    towers,
    lrn,
    batch_norm,
    pooling,
    border,
    augmentation,
    views,
    lighting,
    dropout,
    ensemble,
    pretraining,
    kernels,
    lesions,
    neighbours,
    depth,
)
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in MODULES}
