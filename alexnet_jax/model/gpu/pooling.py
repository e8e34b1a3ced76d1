"""Max pooling for a GPU: it keeps where each maximum was, a byte, and nothing else."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model.operators import Padding

Saved = tuple[jax.Array, tuple[int, ...]]  # where the maxima were, and the sides of the maps


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = (0, 0)) -> jax.Array:
    """`operators.max_pool`; of several maxima in a window the first alone has the gradient."""
    if min(x.shape[1:3]) + sum(padding) < window:
        raise ValueError(f"a pooling window of {window} is larger than maps of {x.shape[1]}")
    return _pool(x, window, stride, padding)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _pool(x: jax.Array, window: int, stride: int, padding: Padding) -> jax.Array:
    return _with_places(x, window, stride, padding)[0]


def _forward(x: jax.Array, window: int, stride: int, padding: Padding) -> tuple[jax.Array, Saved]:
    y, places = lax.optimization_barrier(_with_places(x, window, stride, padding))
    return y, (places, x.shape[1:3])


def _backward(
    window: int,
    stride: int,
    padding: Padding,
    saved: Saved,
    gradient: jax.Array,
) -> tuple[jax.Array]:
    places, sides = saved
    total = None
    for place in range(window * window):
        own = jnp.where(places == place, gradient, 0)
        edges = [(0, 0, 0)]
        for start, side, count in zip(
            divmod(place, window), sides, gradient.shape[1:3], strict=True
        ):
            before = start - padding[0]
            after = side - before - (stride * (count - 1) + 1)
            edges.append((before, after, stride - 1))
        own = lax.pad(own, jnp.zeros((), own.dtype), [*edges, (0, 0, 0)])
        total = own if total is None else total + own
    assert total is not None
    return (total,)


_pool.defvjp(_forward, _backward)


def _with_places(
    x: jax.Array, window: int, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """The maxima, and where in its window each is, counted row by row."""
    if padding != (0, 0):
        x = jnp.pad(x, [(0, 0), padding, padding, (0, 0)], constant_values=-jnp.inf)
    largest = places = None
    for place in range(window * window):
        rows, columns = (
            slice(start, start + (side - window) // stride * stride + 1, stride)
            for start, side in zip(divmod(place, window), x.shape[1:3], strict=True)
        )
        here = x[:, rows, columns]
        if largest is None or places is None:
            kind = jnp.uint8 if window <= 16 else jnp.int32
            largest, places = here, jnp.zeros(here.shape, kind)
        else:
            places = jnp.where(here > largest, jnp.asarray(place, places.dtype), places)
            largest = jnp.maximum(here, largest)
    assert largest is not None and places is not None
    return largest, places
