"""The momentum of a run as a plain tree, `{layer: {kind: array}}`, whatever optax calls its parts.

What a checkpoint holds must not depend on the private tree of an optimizer. The momentum of a
parameter is the array in that tree whose path ends as the parameter's does, in layer and kind; all
else there counts steps. Earlier versions of this program saved optax's own tree, as `opt_state`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def momentum_of(opt_state: Tree, params: Tree) -> Tree:
    """Returns the momentum in a state of optax, a tree like `params` without its frozen layers."""
    momentum: Tree = {}
    for path, array in jax.tree_util.tree_flatten_with_path(opt_state)[0]:
        if (found := _parameter(path, params)) is not None:
            layer, kind = found
            momentum.setdefault(layer, {})[kind] = array
    return momentum


def with_momentum(opt_state: Tree, momentum: Tree, step: jax.Array) -> Tree:
    """Returns a state of optax as it was after `step` steps, with that momentum."""

    def replaced(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        if (found := _parameter(path, momentum)) is not None:
            layer, kind = found
            return momentum[layer][kind]
        return jnp.array(step, array.dtype, copy=True)  # a step gives each buffer away, once

    return jax.tree_util.tree_map_with_path(replaced, opt_state)


def _parameter(path: tuple[Any, ...], params: Tree) -> tuple[str, str] | None:
    """The layer and the kind that the path of an array ends in, if they are a parameter's."""
    keys = [getattr(entry, "key", None) for entry in path[-2:]]
    for layer, kinds in params.items():
        for kind in kinds:
            if keys == [layer, kind]:
                return layer, kind
    return None


def as_saved(wanted: Mapping[str, Tree], saved: Mapping[str, Tree]) -> dict[str, Tree]:
    """Returns the trees to ask a checkpoint for, which may be of an earlier version.

    Args:
        wanted: the trees as they are now, of `jax.ShapeDtypeStruct`.
        saved: what the checkpoint's own metadata say is in it, name to tree of arrays.
    """
    training = saved.get("training")
    if "training" not in wanted or not isinstance(training, dict) or "opt_state" not in training:
        return dict(wanted)
    kept = {name: tree for name, tree in wanted["training"].items() if name != "momentum"}
    opt_state = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), training["opt_state"]
    )
    return {**wanted, "training": {**kept, "opt_state": opt_state}}


def as_now(restored: Mapping[str, Tree], wanted: Mapping[str, Tree]) -> dict[str, Tree]:
    """Returns the trees that came of `as_saved`, as they are now."""
    training = restored.get("training", {})
    if "opt_state" not in training:
        return dict(restored)
    kept = {name: tree for name, tree in training.items() if name != "opt_state"}
    momentum = momentum_of(training["opt_state"], wanted["training"]["momentum"])
    return {**restored, "training": {**kept, "momentum": momentum}}
