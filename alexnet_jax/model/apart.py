"""One device's layers, with the maps of each tower in an array of their own where they can be.

A convolution takes and gives whole arrays: towers side by side in one are cut apart before it and
joined after it, which on an accelerator costs as much as reading and writing the maps once more.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from alexnet_jax.model import tower
from alexnet_jax.model.network import Conv
from alexnet_jax.model.tower import Arrays, Found, Kept


class TowersApart(tower.Tower):
    """`model.tower.Tower`, the same function."""

    apart_from = ""  # before this word of a layer, and not only before the next convolution

    def layers(
        self,
        x: jax.Array,
        arrays: Mapping[str, Arrays],
        convolutions: Mapping[str, Conv],
        kept: Kept,
    ) -> Found:
        """Some of the layers, see `model.tower.Tower`."""
        net = self.network
        if self.intermediates or kept or net.norm == "batch_norm" or net.lrn_across_towers:
            return super().layers(x, arrays, convolutions, kept)
        maps = [x]
        for name, conv in convolutions.items():
            if conv.communicates:
                maps = [self.maps_of_both_towers(jnp.concatenate(maps, axis=3), name)]
            elif not net.sees_all(name):
                maps = self._apart(maps)
            with jax.named_scope(name):
                kernel, bias = self.kernel_and_bias(arrays[name], x.dtype)
                kernels, biases = (jnp.split(a, len(maps), axis=-1) for a in (kernel, bias))
                maps = [
                    self.respond(x, own, b, conv, 1)
                    for x, own, b in zip(maps, kernels, biases, strict=True)
                ]
                for word in conv.after.split():
                    if word == self.apart_from:
                        maps = self._apart(maps)
                    towers = self.count // len(maps)
                    maps = [self.after(word, x, conv, towers) for x in maps]
        return jnp.concatenate(maps, axis=3), {}, {}

    def _apart(self, maps: list[jax.Array]) -> list[jax.Array]:
        """The maps of each tower."""
        return maps if len(maps) == self.count else jnp.split(maps[0], self.count, axis=3)
