"""One device's layers, a few images at a time where their maps are larger than the cache."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
from jax import lax

from alexnet_jax.model import operators, tower
from alexnet_jax.model.cpu import convolution
from alexnet_jax.model.cpu.normalization import local_response_norm
from alexnet_jax.model.cpu.portions import in_portions, portion
from alexnet_jax.model.cpu.winograd import apart
from alexnet_jax.model.network import Conv, Network
from alexnet_jax.model.tower import Arrays, Found, Kept

Layers = dict[str, Conv]


class Stage(NamedTuple):
    """Some work on maps, and whether it may see a few images at a time (`convolution.may_loop`)."""

    may_loop: bool
    compute: Callable[[jax.Array], jax.Array]


class PortionedTower(tower.Tower):
    """`model.tower.Tower`, the same function: between two communications in portions of images."""

    lrn = staticmethod(local_response_norm)

    def __call__(self, x: jax.Array, arrays: Mapping[str, Arrays], kept: Kept) -> Found:
        """Computes the maps of the last layer, see `model.tower.Tower`."""
        local = any(conv.local for conv in self.network.convolutions().values())
        batch_norm = self.network.norm == "batch_norm"
        if self.intermediates or batch_norm or local or kept:  # every stage, image, or its mask
            return tower.Tower.__call__(self, x, arrays, kept)
        x = lax.pcast(x, "tower", to="varying")
        for part in between_communications(self.network):
            few = portion(x.shape[0], self._largest_maps(part, x.dtype.itemsize))
            if few >= x.shape[0]:  # all of it fits into the cache, where XLA is faster by itself
                x, _, _ = tower.Tower.layers(self, x, arrays, part, kept)
                continue
            first, layer = next(iter(part.items()))
            if layer.communicates:
                x = self.maps_of_both_towers(x, first)
            stages = self._stages(part, arrays, x.dtype)
            for may_loop, some in itertools.groupby(stages, lambda stage: stage.may_loop):
                run = partial(reduce, lambda x, stage: stage.compute(x), list(some))
                x = in_portions(run, x, few) if may_loop else run(x)
        return x, {}, {}

    def _largest_maps(self, part: Layers, itemsize: int) -> int:
        """Bytes of the largest maps that this device makes of one image."""
        sides = self.network.sides()
        largest = max(sides[name][0] ** 2 * conv.width for name, conv in part.items())
        return largest * itemsize * self.count // self.network.towers

    def _stages(self, part: Layers, arrays: Mapping[str, Arrays], dtype: Any) -> Iterator[Stage]:
        net = self.network
        across = net.lrn_across_towers and self.count < net.towers
        for name, conv in part.items():
            after = conv.after.split()
            fused = after[:1] == ["activation"]  # into the convolution
            kernel, bias = self.kernel_and_bias(arrays[name], dtype)
            form = convolution.Form(
                conv.kernel,
                conv.stride,
                conv.padding,
                groups=1 if net.sees_all(name) else self.count,
                activation=net.activation if fused else "linear",
            )
            kernels = convolution.kernels(kernel, form)
            respond = partial(convolution.respond, kernels=kernels, bias=bias, form=form)
            yield Stage(convolution.may_loop(kernels), respond)
            for word in after[fused:]:
                match word:
                    case "activation":
                        yield Stage(True, apart(operators.ACTIVATIONS[net.activation]))
                    case "norm" if net.norm == "lrn":  # across towers it talks, outside of any loop
                        norm = partial(self.local_response_norm, towers=self.count)
                        yield Stage(not across, norm)
                    case "within_map_norm":
                        size, scale = net.within_map_size, net.within_map_scale
                        norm = partial(operators.within_map_norm, size=size, scale=scale)
                        yield Stage(True, apart(norm))
                    case "pool" | "average_pool":
                        pool = partial(
                            operators.max_pool if word == "pool" else operators.average_pool,
                            window=net.pool_window,
                            stride=net.pool_stride,
                            padding=conv.pool_padding,
                        )
                        yield Stage(True, apart(pool))


def between_communications(network: Network) -> list[Layers]:
    """The convolutional layers from one communication of the towers to the next."""
    found: list[Layers] = [{}]
    for name, layer in network.convolutions().items():
        if layer.communicates and found[-1]:
            found.append({})
        found[-1][name] = layer
    return found
