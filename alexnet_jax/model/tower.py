"""What one device computes of the convolutional layers: one tower, or both side by side."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.model import layers
from alexnet_jax.model.network import Conv, Network

Arrays = dict[str, jax.Array]
Found = tuple[jax.Array, Arrays, dict[str, Arrays]]  # the last maps; every stage; statistics


class Stage(NamedTuple):
    """A stage of a layer: 'conv1', 'conv1/norm', ...

    Attributes:
        name: of the stage.
        may_loop: whether it may see a few images at a time, see `layers.Operators`.
        compute: from maps to maps, and the statistics of batch norm.
    """

    name: str
    may_loop: bool
    compute: Callable[[jax.Array], tuple[jax.Array, Arrays]]


@dataclasses.dataclass(frozen=True)
class Tower:
    """A function for `shard_map` over (data, tower)."""

    network: Network
    count: int  # of the towers on this device
    operators: layers.Operators
    training: bool
    intermediates: bool  # every stage is wanted

    def __call__(self, x: jax.Array, arrays: Mapping[str, Arrays]) -> Found:
        """From this device's images, (N, S, S, 3), and its share of the parameters."""
        seen: Arrays = {}
        statistics: dict[str, Arrays] = {}
        x = jax.lax.pcast(x, "tower", to="varying")
        for part in self.network.parts():
            first, *_ = part.values()
            if first.communicates and self.count < self.network.towers:
                x = jax.lax.all_gather(x, "tower", axis=3, tiled=True)
            few = self._few(x, part)
            operators = self.operators if few < x.shape[0] else layers.OPERATORS
            stages = self._computations(part, arrays, operators)
            for may_loop, together in itertools.groupby(stages, lambda stage: stage.may_loop):
                run = partial(self._run, stages=list(together))
                found = operators.in_portions(run, x, few) if may_loop else run(x)
                x = found[0]
                seen |= found[1]
                statistics |= found[2]
        return x, seen, statistics

    def stages(self) -> Iterator[tuple[str, Conv]]:
        """The names of all stages in their order, each with its layer."""
        for layer, conv in self.network.convolutions().items():
            yield layer, conv
            for word in self._split(conv)[1]:
                yield f"{layer}/{word}", conv

    def _few(self, x: jax.Array, part: Mapping[str, Conv]) -> int:
        sides = self.network.sides()
        largest = max(sides[name][0] ** 2 * conv.width for name, conv in part.items())
        bytes_here = largest * x.dtype.itemsize * self.count // self.network.towers
        return self.operators.portion(x.shape[0], bytes_here)

    def _split(self, conv: Conv) -> tuple[str, list[str]]:
        """The activation, where it is one operator with the convolution, and what comes after."""
        after = [word for word in conv.after.split() if word != "dropout"]  # which is AlexNet's
        if after[:1] == ["activation"] and not self.intermediates:
            return self.network.activation, after[1:]
        return "linear", after

    def _computations(
        self, part: Mapping[str, Conv], arrays: Mapping[str, Arrays], operators: layers.Operators
    ) -> Iterator[Stage]:
        """Of layers between which the towers do not communicate."""
        for name, conv in part.items():
            kernel, bias = (
                jax.lax.pcast(arrays[name][which], "data", to="varying")
                for which in ("kernel", "bias")
            )
            activation, after = self._split(conv)
            groups = 1 if self.network.sees_all(name) else self.count
            form = layers.Form(conv.kernel, conv.stride, conv.padding, groups, activation)
            kernels = operators.kernels(kernel, form)

            def respond(
                x: jax.Array, kernels: Any = kernels, bias: Any = bias, form: Any = form
            ) -> tuple[jax.Array, Arrays]:
                return operators.respond(x, kernels, bias, form), {}

            yield Stage(name, operators.may_loop(kernels), respond)
            for word in after:
                compute = partial(self._after, word, conv, arrays[name], operators.apart)
                alone = word == "norm" and self._looks_across()
                yield Stage(f"{name}/{word}", not alone, compute)

    def _looks_across(self) -> bool:
        """Whether LRN sees maps that are on another device."""
        lrn = self.network.norm == "lrn" and self.network.lrn_across_towers
        return lrn and self.count < self.network.towers

    def _run(self, x: jax.Array, stages: Iterable[Stage]) -> Found:
        seen: Arrays = {}
        statistics: dict[str, Arrays] = {}
        for stage in stages:
            x, more = stage.compute(x)
            if self.intermediates:
                seen[stage.name] = x
            if more:
                statistics[stage.name.partition("/")[0]] = more
        return x, seen, statistics

    def _after(
        self, word: str, conv: Conv, arrays: Arrays, apart: layers.Apart, x: jax.Array
    ) -> tuple[jax.Array, Arrays]:
        """One word of `Conv.after`."""
        net = self.network
        match word:
            case "activation":
                return apart(layers.ACTIVATIONS[net.activation])(x), {}
            case "norm" if net.norm == "lrn":
                normal = partial(
                    layers.local_response_norm,
                    size=net.lrn_size,
                    k=net.lrn_k,
                    alpha=net.lrn_alpha,
                    beta=net.lrn_beta,
                    towers=1 if net.lrn_across_towers else self.count,
                    apart=apart,
                )
                if not self._looks_across():
                    return normal(x), {}
                whole = normal(jax.lax.all_gather(x, "tower", axis=3, tiled=True))
                first = jax.lax.axis_index("tower") * x.shape[3]
                return jax.lax.dynamic_slice_in_dim(whole, first, x.shape[3], axis=3), {}
            case "norm" if net.norm == "batch_norm":
                return _batch_norm(x, arrays, self.training)
            case "norm":
                return x, {}
            case "within_map_norm":
                return apart(layers.within_map_norm)(x), {}
            case "pool":
                window, stride = net.pool_window, net.pool_stride
                pool = apart(lambda x: layers.max_pool(x, window, stride, conv.pool_padding))
                return pool(x), {}
        raise ValueError(f"no {word} after a convolution")


def _batch_norm(x: jax.Array, norm: Arrays, training: bool) -> tuple[jax.Array, Arrays]:
    """Batch norm over the global batch, so that every mesh computes the same, in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, variance = norm["mean"], norm["variance"]
    statistics = {}
    if training:
        mean = jax.lax.pmean(wide.mean((0, 1, 2)), "data")
        variance = jax.lax.pmean(jnp.square(wide - mean).mean((0, 1, 2)), "data")
        statistics = {"mean": mean, "variance": variance}
    normal = (wide - mean) * jax.lax.rsqrt(variance + 1e-5)
    return (normal * norm["scale"] + norm["shift"]).astype(x.dtype), statistics
