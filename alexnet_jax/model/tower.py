"""What one device computes of the convolutional layers: one tower, or both side by side."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model import operators
from alexnet_jax.model.network import Conv, Network

KERNEL_AND_BIAS = ("kernel", "bias")
Arrays = dict[str, jax.Array]
# By layer, which units of its maps dropout keeps in this step; None at test.
Kept = Mapping[str, jax.Array | None]
Found = tuple[jax.Array, Arrays, dict[str, Arrays]]  # the last maps; every stage; statistics


@dataclasses.dataclass(frozen=True)
class Tower:
    """The convolutional layers, as a function for `shard_map` over (data, tower)."""

    network: Network
    count: int  # of the towers on this device
    learning: frozenset[str]  # layers whose batch norm looks at the batch: none at test
    intermediates: bool  # every stage is wanted

    def __call__(self, x: jax.Array, arrays: Mapping[str, Arrays], kept: Kept) -> Found:
        """Computes the maps of the last layer.

        Args:
            x: this device's images, (N, S, S, 3), minus the mean image.
            arrays: this device's share of the parameters, by layer.
            kept: of the layers before the last that have dropout.

        Returns:
            The last maps, before any dropout, (N, H, W, channels of this device); every stage, if
            asked; the means and variances of batch norm, of those that look at the batch.
        """
        x = lax.pcast(x, "tower", to="varying")
        return self.layers(x, arrays, self.network.convolutions(), kept)

    def layers(
        self,
        x: jax.Array,
        arrays: Mapping[str, Arrays],
        convolutions: Mapping[str, Conv],
        kept: Kept,
    ) -> Found:
        """Some of the layers, one after the other, as the paper's sections 3.1 to 3.5 have them."""
        net = self.network
        stages: Arrays = {}
        statistics: dict[str, Arrays] = {}
        for name, conv in convolutions.items():
            if conv.communicates:
                x = self.maps_of_both_towers(x, name)
            with jax.named_scope(name):
                kernel, bias = self.kernel_and_bias(arrays[name], x.dtype)
                groups = 1 if net.sees_all(name) else self.count
                x = stages[name] = self.respond(x, kernel, bias, conv, groups)
                for word in conv.after.split():
                    if word == "norm" and net.norm == "batch_norm":
                        x, statistics[name] = _batch_norm(x, arrays[name], name in self.learning)
                    elif word == "dropout" and name in kept:
                        x = operators.dropout(x, kept[name], net.dropout)
                    else:
                        x = self.after(word, x, conv, self.count)
                    stages[f"{name}/{word}"] = x
        return x, stages if self.intermediates else {}, statistics

    def respond(
        self, x: jax.Array, kernel: jax.Array, bias: jax.Array, conv: Conv, groups: int
    ) -> jax.Array:
        """The responses of a layer's kernels, with their biases."""
        if conv.local:
            x = operators.local_convolution(
                x, kernel, conv.kernel, conv.stride, conv.padding, groups
            )
            return x + bias.astype(x.dtype)
        x = operators.convolution(x, kernel, conv.stride, conv.padding, groups)
        return operators.add_bias(x, bias)

    def after(self, word: str, x: jax.Array, conv: Conv, towers: int) -> jax.Array:
        """What follows a convolution, but for batch norm and dropout.

        Args:
            word: of `Conv.after`.
            x: maps, (N, H, W, C).
            conv: the layer.
            towers: how many have their maps in `x`.
        """
        net = self.network
        with jax.named_scope(word):
            match word:
                case "activation":
                    return operators.ACTIVATIONS[net.activation](x)
                case "norm" if net.norm == "lrn":
                    return self.local_response_norm(x, towers)
                case "within_map_norm":
                    return operators.within_map_norm(x, net.within_map_size, net.within_map_scale)
                case "pool":
                    return self.max_pool(x, net.pool_window, net.pool_stride, conv.pool_padding)
                case "average_pool":
                    return operators.average_pool(
                        x, net.pool_window, net.pool_stride, conv.pool_padding
                    )
        return x

    def maps_of_both_towers(self, x: jax.Array, into: str) -> jax.Array:
        """What the GPUs of 2012 sent each other on the way into conv3 (section 3.2).

        Args:
            x: this tower's maps.
            into: the layer, whose name the exchange has in the compiled program and in a profile.
        """
        if self.count == self.network.towers:
            return x
        with jax.named_scope(into):
            return lax.all_gather(x, "tower", axis=3, tiled=True)

    def kernel_and_bias(self, arrays: Arrays, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """Those of a layer: the same for all images, and of each device a gradient of its own.

        The kernels are narrowed here and not outside, so that their gradients are summed over the
        devices as wide as they are kept.
        """
        kernel, bias = (lax.pcast(arrays[which], "data", to="varying") for which in KERNEL_AND_BIAS)
        return kernel.astype(dtype), bias

    def local_response_norm(self, x: jax.Array, towers: int) -> jax.Array:
        """Section 3.3, within each tower, or as Caffe has it across both."""
        net = self.network
        lrn = partial(
            self.lrn, size=net.lrn_size, k=net.lrn_k, alpha=net.lrn_alpha, beta=net.lrn_beta
        )
        if not net.lrn_across_towers:
            return lrn(x, towers=towers)
        whole = lrn(self.maps_of_both_towers(x, "norm"))
        if self.count == net.towers:
            return whole
        first = lax.axis_index("tower") * x.shape[3]
        return lax.dynamic_slice_in_dim(whole, first, x.shape[3], axis=3)

    lrn = staticmethod(operators.local_response_norm)
    max_pool = staticmethod(operators.max_pool)


def _batch_norm(x: jax.Array, norm: Arrays, learning: bool) -> tuple[jax.Array, Arrays]:
    """Normalizes over the global batch, so that every mesh computes the same, in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, variance = norm["mean"], norm["variance"]
    statistics = {}
    if learning:
        mean = jax.lax.pmean(wide.mean((0, 1, 2)), "data")
        variance = jax.lax.pmean(jnp.square(wide - mean).mean((0, 1, 2)), "data")
        statistics = {"mean": mean, "variance": variance}
    normal = (wide - mean) * jax.lax.rsqrt(variance + 1e-5)
    return (normal * norm["scale"] + norm["shift"]).astype(x.dtype), statistics
