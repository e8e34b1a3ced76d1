"""What a TPU does in its own way, read off its compiler's estimates (`experiments/results/ahead`).

LRN's sum over neighbours is a product, which costs a matrix unit nothing, of all channels that a
device has; pooling is XLA's own `reduce_window`, whose derivative a TPU has an instruction for.
"""

from alexnet_jax.model import tower
from alexnet_jax.model.plain import Plain
from alexnet_jax.model.tpu.normalization import local_response_norm
from alexnet_jax.model.tpu.pooling import max_pool


class Tower(tower.Tower):
    """`model.tower.Tower`, the same function."""

    lrn = staticmethod(local_response_norm)
    max_pool = staticmethod(max_pool)


class TPU(Plain):
    """How the network is computed on a TPU."""

    tower = Tower


PLATFORM = TPU()
