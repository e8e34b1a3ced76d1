"""What a GPU does in its own way, read off its compiler's programs (`experiments/results/ahead`).

A GPU waits for its memory: each form here has fewer bytes to move than the plain one.

* LRN is one pass each way (`normalization`): sums of shifted copies, which a fusion keeps in
  registers, and nothing but the input is kept;
* pooling keeps one byte for each maximum (`pooling`);
* the towers' maps lie apart (`model.apart`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

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
    products: ClassVar[Mapping[str, str]] = {"default": "TF32", "high": "three passes of TF32"}

    def compiler_options(
        self, *, training: bool = False, deterministic: bool = False
    ) -> dict[str, Any]:
        """Returns whether XLA shall choose among the operators that give the same bits alone."""
        del training
        return {"xla_gpu_deterministic_ops": True} if deterministic else {}

    def describe_numbers(self, dtype: str, precision: str, *, deterministic: bool) -> str:
        """Says for people what training computes with, see `Plain`."""
        numbers = super().describe_numbers(dtype, precision, deterministic=deterministic)
        return f"{numbers}, {'deterministic' if deterministic else 'not bit for bit repeatable'}"


PLATFORM = GPU()
