"""What a TPU does in its own way, read off its compiler's estimates (`experiments/results/ahead`).

* LRN's sums are products with a band, which cost a matrix unit next to nothing (`normalization`);
* pooling is XLA's own `reduce_window`, whose derivative a TPU has an instruction for (`pooling`);
* the towers' maps lie apart (`model.apart`).
"""

from collections.abc import Mapping
from typing import ClassVar

from alexnet_jax.model.apart import TowersApart
from alexnet_jax.model.plain import Plain
from alexnet_jax.model.tpu.normalization import local_response_norm
from alexnet_jax.model.tpu.pooling import max_pool


class Tower(TowersApart):
    """`model.tower.Tower`, the same function."""

    lrn = staticmethod(local_response_norm)
    max_pool = staticmethod(max_pool)


class TPU(Plain):
    """How the network is computed on a TPU."""

    tower = Tower
    products: ClassVar[Mapping[str, str]] = {
        "default": "bfloat16",
        "high": "three passes of bfloat16",
    }


PLATFORM = TPU()
