"""What a GPU does in its own way, read off its compiler's programs (`experiments/results/ahead`).

A GPU waits for its memory: each form here has fewer bytes to move than the plain one.

* LRN is one pass each way (`normalization`): sums of shifted copies, which a fusion keeps in
  registers, and nothing but the input is kept;
* pooling keeps one byte for each maximum (`pooling`);
* the towers' maps lie apart (`model.apart`).
"""

from alexnet_jax.model.apart import TowersApart
from alexnet_jax.model.gpu.normalization import local_response_norm
from alexnet_jax.model.gpu.pooling import max_pool
from alexnet_jax.model.plain import Plain


class Tower(TowersApart):
    """`model.tower.Tower`, the same function."""

    lrn = staticmethod(local_response_norm)
    max_pool = staticmethod(max_pool)
    apart_from = "pool"  # which has two results: both would be cut


class GPU(Plain):
    """How the network is computed on a GPU."""

    tower = Tower


PLATFORM = GPU()
