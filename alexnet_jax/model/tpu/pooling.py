"""Max pooling by XLA's own operators."""

import jax
import numpy as np
from jax import lax

from alexnet_jax.model.operators import Padding


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = (0, 0)) -> jax.Array:
    """`operators.max_pool`; of several maxima in a window the first alone has the gradient."""
    if min(x.shape[1:3]) + sum(padding) < window:
        raise ValueError(f"a pooling window of {window} is larger than maps of {x.shape[1]}")
    sides, edges = (1, window, window, 1), ((0, 0), padding, padding, (0, 0))
    return lax.reduce_window(x, -np.inf, lax.max, sides, (1, stride, stride, 1), edges)
