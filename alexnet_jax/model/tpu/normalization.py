"""LRN for a TPU: the sums are products with a band, and kept as narrow as the maps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model.operators import LRN, wide

Saved = tuple[jax.Array, jax.Array]  # the maps, and the sums of their squares, no wider than they


def local_response_norm(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float, towers: int = 1
) -> jax.Array:
    """`operators.local_response_norm`, the same values and derivatives."""
    return _norm(x, LRN(size, k, alpha, beta), x.shape[-1] // towers)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _norm(x: jax.Array, lrn: LRN, channels: int) -> jax.Array:
    return _forward(x, lrn, channels)[0]


def _forward(x: jax.Array, lrn: LRN, channels: int) -> tuple[jax.Array, Saved]:
    a = x.astype(wide(x.dtype))
    squares = near(a * a, lrn.size, channels, x.dtype)
    return lrn.value(a, squares).astype(x.dtype), (x, squares.astype(x.dtype))


def _backward(lrn: LRN, channels: int, saved: Saved, gradient: jax.Array) -> tuple[jax.Array]:
    a, squares, gradient = (array.astype(wide(array.dtype)) for array in (*saved, gradient))
    dtype = saved[0].dtype
    collected = near(lrn.shares(gradient, a, squares), lrn.size, channels, dtype)
    return (lrn.gradient(gradient, a, squares, collected).astype(dtype),)


_norm.defvjp(_forward, _backward)


def near(x: jax.Array, size: int, channels: int, dtype: jnp.dtype) -> jax.Array:
    """The sum over the neighbours of each channel, of the same tower.

    Args:
        x: (..., towers * channels).
        size: of the neighbourhood, odd.
        channels: of one tower.
        dtype: of the maps. Where they are bfloat16, sums of three bfloat16 products, exact to 16
            bits, are exact enough.
    """
    place = np.arange(x.shape[-1])
    band = abs(place[:, None] - place) <= size // 2
    band &= place[:, None] // channels == place // channels
    precision = lax.Precision.HIGH if dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    return jnp.matmul(x, jnp.asarray(band, x.dtype), precision=precision)
