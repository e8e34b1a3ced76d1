"""A few images at a time, so that what one stage writes the next one finds in the cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

AT_A_TIME = 10_000_000  # bytes of the largest maps: what a cache holds


def portion(images: int, largest: int) -> int:
    """How many images to take at once.

    Args:
        images: all of them. A number that is not known yet (`jax.export`) is taken at once.
        largest: bytes of the largest maps of one image.
    """
    if not isinstance(images, int):
        return images
    most = max(1, min(images, AT_A_TIME // largest))
    even = max(few for few in range(1, most + 1) if images % few == 0)
    return even if 2 * even > most else -(-images // -(-images // most))


def in_portions(f: Callable[[jax.Array], Any], x: jax.Array, few: int) -> Any:
    """`f` of (N, ...), `few` images at a time. If N does not come out even, zeros follow.

    For the derivative only what `respond` names is kept, and the rest computed again.
    """
    images = x.shape[0]
    portions = -(-images // few)
    if portions == 1:
        return f(x)
    spare = portions * few - images
    x = jnp.pad(x, [(0, spare), *[(0, 0)] * (x.ndim - 1)]) if spare else x
    keep = jax.checkpoint_policies.save_only_these_names("values")
    remembering = jax.checkpoint(f, policy=keep, prevent_cse=False)
    _, found = lax.scan(
        lambda _, x: (None, remembering(x)), None, x.reshape(portions, few, *x.shape[1:])
    )
    return jax.tree.map(lambda y: y.reshape(portions * few, *y.shape[2:])[:images], found)
