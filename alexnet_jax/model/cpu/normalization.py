"""LRN whose powers XLA does not compute again in each of the pool's slices."""

from functools import partial

import jax

from alexnet_jax.model.cpu.winograd import apart
from alexnet_jax.model.operators import LRN, by_tower


def local_response_norm(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float, towers: int = 1
) -> jax.Array:
    """`operators.local_response_norm`, the same values and derivatives."""
    lrn = LRN(size, k, alpha, beta)
    return by_tower(lambda x: _lrn(x, lrn), x, towers)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _lrn(x: jax.Array, lrn: LRN) -> jax.Array:
    return _lrn_forward(x, lrn)[0]


def _lrn_forward(x: jax.Array, lrn: LRN) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    squares = lrn.near(x * x)
    return apart(lrn.value)(x, squares), (x, squares)


def _lrn_backward(
    lrn: LRN, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    collected = lrn.near(apart(lrn.shares)(gradient, *saved))
    return (apart(lrn.gradient)(gradient, *saved, collected),)


_lrn.defvjp(_lrn_forward, _lrn_backward)
