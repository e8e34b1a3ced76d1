"""LRN for a GPU: one pass each way, which keeps its input alone and is float32 in registers only.

XLA fuses what reads arrays at fixed distances, but not a sum over neighbours of a sum over
neighbours: so the way back starts from the maps themselves, shifted by up to four channels.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.operators import LRN, wide


def local_response_norm(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float, towers: int = 1
) -> jax.Array:
    """`operators.local_response_norm`, the same values and derivatives."""
    return _norm(x, LRN(size, k, alpha, beta), x.shape[-1] // towers)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _norm(x: jax.Array, lrn: LRN, channels: int) -> jax.Array:
    reach = lrn.size // 2
    values = _neighbours(x, reach, channels)
    return lrn.value(values[0], _sum_of_squares(values, 0, reach)).astype(x.dtype)


def _forward(x: jax.Array, lrn: LRN, channels: int) -> tuple[jax.Array, jax.Array]:
    return _norm(x, lrn, channels), x


def _backward(lrn: LRN, channels: int, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    reach = lrn.size // 2
    x = lax.optimization_barrier(x)  # or XLA would keep the sums of the way there
    values = _neighbours(x, 2 * reach, channels)
    gradients = _neighbours(gradient, reach, channels)
    squares = {at: _sum_of_squares(values, at, reach) for at in gradients}
    collected = reduce(
        jnp.add, (lrn.shares(gradients[at], values[at], squares[at]) for at in gradients)
    )
    found = lrn.gradient(gradients[0], values[0], squares[0], collected)
    return (found.astype(x.dtype),)


_norm.defvjp(_forward, _backward)


def _neighbours(x: jax.Array, reach: int, channels: int) -> dict[int, jax.Array]:
    """Of each channel the one so far above or below, widened; 0 where its tower has none."""
    place = np.arange(x.shape[-1]) % channels
    found = {}
    for at in range(-reach, reach + 1):
        edges = [(0, 0, 0)] * (x.ndim - 1) + [(-at, at, 0)]
        there = lax.pad(x, jnp.zeros((), x.dtype), edges)
        if channels < x.shape[-1]:
            there = jnp.where((place + at >= 0) & (place + at < channels), there, 0)
        found[at] = there.astype(wide(x.dtype))
    return found


def _sum_of_squares(values: dict[int, jax.Array], at: int, reach: int) -> jax.Array:
    """Of the neighbours of the channel `at` further up."""
    near = [values[other] for other in range(at - reach, at + reach + 1)]
    return reduce(jnp.add, (value * value for value in near))
