"""The network as one would first write it in JAX, with no thought of speed.

A grouped convolution, `reduce_window` for pooling and for LRN's sum, a power, `optax.sgd`, and the
derivatives that come of themselves. Signatures are those of `alexnet_jax.model.layers`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from alexnet_jax.model import Network

Tree = Any
Padding = tuple[int, int]


def convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """`layers.convolution`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def local_response_norm(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float, towers: int = 1
) -> jax.Array:
    """`layers.local_response_norm`."""
    wide = x.astype(jnp.float32).reshape(*x.shape[:-1], towers, -1)
    window = (1,) * (wide.ndim - 1) + (size,)
    sums = lax.reduce_window(wide**2, 0.0, lax.add, window, (1,) * wide.ndim, "SAME")
    return (wide / (k + alpha * sums) ** beta).reshape(x.shape).astype(x.dtype)


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = (0, 0)) -> jax.Array:
    """`layers.max_pool`."""
    pads = ((0, 0), padding, padding, (0, 0))
    shape, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, shape, strides, pads)


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """A fully connected layer."""
    return x @ kernel + bias


def logits(
    network: Network,
    params: Tree,
    images: jax.Array,
    masks: Mapping[str, jax.Array] | None,
    dtype: Any,
) -> jax.Array:
    """The network on one device; arguments as of `AlexNet`, which has the same parameters."""
    x = images.astype(dtype)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    for name, layer in network.convolutions().items():
        groups = 1 if name == "conv1" or layer.communicates else network.towers
        x = convolution(x, params[name]["kernel"], layer.stride, layer.padding, groups)
        x = x + params[name]["bias"]
        for stage in layer.after.split():
            if stage == "activation":
                x = jax.nn.relu(x)
            elif stage == "norm":
                x = local_response_norm(
                    x,
                    size=network.lrn_size,
                    k=network.lrn_k,
                    alpha=network.lrn_alpha,
                    beta=network.lrn_beta,
                    towers=network.towers,
                )
            else:
                x = max_pool(x, network.pool_window, network.pool_stride, layer.pool_padding)
    x = x.reshape(len(x), -1)
    for name, layer in network.hidden().items():
        x = dense(x, **params[name])
        for stage in layer.after.split():
            if stage == "activation":
                x = jax.nn.relu(x)
            elif masks is None:
                x = x * (1 - network.dropout)
            else:
                x = x * masks[name].astype(dtype)
    return dense(x, **params["fc8"]).astype(jnp.float32)


def update_rule(optim: ConfigDict) -> optax.GradientTransformation:
    """The rule of 2012 at its first rates, which do not change and so may stand outside."""
    rates = {"kernel": optim.learning_rate, "bias": optim.learning_rate * optim.bias_multiplier}

    def kinds(params: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)

    def is_weight(params: Tree) -> Tree:
        return jax.tree.map(lambda kind: kind == "kernel", kinds(params))

    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask=is_weight),
        optax.partition({kind: optax.sgd(r, optim.momentum) for kind, r in rates.items()}, kinds),
    )
