"""AlexNet, in the order of the paper's section 3.

    224x224x3 ─ conv1 ─ conv2 ═ conv3 ─ conv4 ─ conv5 ═ fc6 ═ fc7 ═ fc8 ─ softmax

A double line is where the two towers communicate. `network` says what the layers are, `AlexNet` is
the Flax module that computes them on a mesh, by a `Tower` on every device; its `init` and `apply`
are pure functions.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax.model import operators
from alexnet_jax.model.mesh import (
    IMAGES,
    MAPS_OF_OWN_TOWER,
    constrain,
    exchanged,
    make_mesh,
    spec_of,
)
from alexnet_jax.model.network import Conv, Network
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.model.tower import Arrays


class AlexNet(nn.Module):
    """The network on a mesh.

    `init(key, images)` gives `params` (global arrays, whatever the mesh) and, with batch norm,
    `batch_stats`. `apply` is described at `__call__`.
    """

    network: Network = Network()
    mesh: Mesh | None = None  # None: one device
    dtype: Any = jnp.float32  # of the activations; parameters, LRN and logits stay float32
    frozen: tuple[str, ...] = ()  # layers whose batch norm is in training what it is at test

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        masks: Mapping[str, jax.Array] | None = None,
        *,
        intermediates: bool | Collection[str] = False,
    ) -> Any:
        """Computes the logits.

        Args:
            images: (N, S, S, 3), RGB on the scale 0..255 minus the mean image, not divided by
                anything: the initial weights are made for this scale.
            masks: what `dropout_masks` drew, for training. None is the network at test.
            intermediates: also return every named stage of every layer, or those that are named
                here. Where they are none of the convolutions', but for what those pass on, the
                convolutions are computed in their fastest form.

        Returns:
            (N, classes) logits; with `intermediates` a pair of them and a dictionary from 'conv1',
            'conv1/activation', 'conv1/norm', 'conv1/pool', ... 'fc8' to arrays.
        """
        net = self.network
        mesh = self.mesh if self.mesh is not None else make_mesh(1, 1, devices=jax.local_devices())
        if mesh.shape["tower"] > net.towers:
            raise ValueError(
                "a network of one tower does not spread over two: set mesh.tower=1 "
                "(more devices go to mesh.data)"
            )
        if images.dtype == jnp.float32:  # the float64 of a test stays what it is
            images = images.astype(self.dtype)
        *_, (last, conv) = net.convolutions().items()
        falls_out = "dropout" in conv.after.split()  # of the last: on what the towers return
        *inner, passed_on = net.stages()[: -1 if falls_out else None]
        named = () if isinstance(intermediates, bool) else intermediates
        within = intermediates is True or any(stage in inner for stage in named)
        x, stages = self._convolutions(images, mesh, masks, within)
        stages[passed_on] = x
        first, *following = [*net.hidden(), "fc8"]
        x = exchanged(x, mesh) if net.sees_all(first) else x
        if falls_out:
            mask = None if masks is None else masks.get(last)
            x = stages[f"{last}/dropout"] = operators.dropout(x, mask, net.dropout)

        for (name, dense), following_name in zip(net.hidden().items(), following, strict=True):
            sees = 1 if dense.communicates else net.towers
            layer = TowerDense(dense.width, dense.std, dense.bias, mesh, sees, name=name)
            x = stages[name] = layer(x)
            for word in dense.after.split():
                if word == "dropout":
                    mask = None if masks is None else masks.get(name)
                    x = operators.dropout(x, mask, net.dropout)
                else:
                    x = operators.ACTIVATIONS[net.activation](x)
                stages[f"{name}/{word}"] = x
            x = exchanged(x, mesh) if net.sees_all(following_name) else x

        fc8 = TowerDense(net.classes, net.fc8_std, net.fc8_bias, mesh, wide=True, name="fc8")
        logits = stages["fc8"] = fc8(x)
        if isinstance(intermediates, bool):
            return (logits, stages) if intermediates else logits
        return logits, {stage: stages[stage] for stage in intermediates}

    def _convolutions(
        self,
        images: jax.Array,
        mesh: Mesh,
        masks: Mapping[str, jax.Array] | None,
        intermediates: bool,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """All convolutional layers, in one `shard_map` over (data, tower).

        Returns:
            The maps of the last before any dropout, (N, H, W, width), and if asked every stage of
            all.
        """
        net = self.network
        training = masks is not None
        kept = {
            name: None if masks is None else masks.get(name)
            for name, conv in list(net.convolutions().items())[:-1]
            if "dropout" in conv.after.split()
        }
        arrays, running = self._parameters(images.shape[-1])
        count = net.towers // mesh.shape["tower"]
        learning = frozenset(net.convolutions()) - set(self.frozen) if training else frozenset()
        tower = platform_of(mesh).tower(net, count, learning, intermediates)
        own = PartitionSpec("tower")
        places = jax.tree.map(lambda a: PartitionSpec(*(None,) * (a.ndim - 1), "tower"), arrays)
        x, stages, statistics = jax.shard_map(
            tower,
            mesh=mesh,
            in_specs=(IMAGES, places, MAPS_OF_OWN_TOWER),
            out_specs=(MAPS_OF_OWN_TOWER, MAPS_OF_OWN_TOWER, own),
        )(images, arrays, kept)
        if training and not self.is_initializing():
            for name, found in statistics.items():
                for which, value in found.items():
                    variable = running[name][which]
                    variable.value = 0.9 * variable.value + 0.1 * value
        return x, {name: stages[name] for name in net.stages() if name in stages}  # in their order

    def _parameters(
        self, channels: int
    ) -> tuple[dict[str, Arrays], dict[str, dict[str, nn.Variable]]]:
        """Declares those of all convolutional layers.

        Args:
            channels: of the images.

        Returns:
            The arrays of each layer, and what batch norm keeps of it.
        """
        net = self.network
        arrays: dict[str, Arrays] = {}
        running: dict[str, dict[str, nn.Variable]] = {}
        for name, conv in net.convolutions().items():
            sees = channels if net.sees_all(name) else channels // net.towers
            side, _ = net.sides()[name]
            arrays[name], running[name] = Kernels(net, conv, sees, side, name=name)()
            channels = conv.width
        return arrays, running

    @nn.nowrap
    def shapes(self) -> dict[str, Any]:
        """`params` and `batch_stats`, as `jax.ShapeDtypeStruct`s; nothing is computed."""
        size = self.network.input_size
        count = 1 if self.mesh is None else self.mesh.shape["data"]
        images = jax.ShapeDtypeStruct((count, size, size, 3), jnp.float32)
        found = jax.eval_shape(self.init, jax.random.key(0), images)
        return {"params": found["params"], "batch_stats": found.get("batch_stats", {})}

    @nn.nowrap
    def dropout_masks(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """Draws which units stay, for one training step.

        An array of bools for each layer, (N, width), or (N, H, W, width) where it has maps.

        Drawn at the global shape, so that a seed means the same run on every mesh and no two towers
        share a mask.
        """
        mesh = self.mesh if self.mesh is not None else make_mesh(1, 1, devices=jax.local_devices())
        shapes: dict[str, tuple[int, ...]] = {
            name: (dense.width,) for name, dense in self.network.hidden().items()
        }
        for name, conv in self.network.convolutions().items():
            if "dropout" in conv.after.split():
                shapes[name] = (*[self.network.sides()[name][1]] * 2, conv.width)
        masks = {}
        for number, (name, shape) in enumerate(shapes.items()):
            layer = getattr(self.network, name)
            if "dropout" in layer.after.split() and self.network.dropout:
                own = jax.random.fold_in(key, number)
                mask = jax.random.bernoulli(own, 1 - self.network.dropout, (batch_size, *shape))
                apart = PartitionSpec("data", *(None,) * (len(shape) - 1), "tower")
                masks[name] = constrain(mask, mesh, apart)
        return masks


class Kernels(nn.Module):
    """The parameters of a convolutional layer."""

    network: Network
    layer: Conv
    channels: int  # that each kernel sees
    side: int  # of the responses, pixels

    @nn.compact
    def __call__(self) -> tuple[Arrays, dict[str, nn.Variable]]:
        """The kernels (K, K, channels, width) and biases; and batch norm's running averages.

        Of a local layer the kernels are (side, side, channels * K * K, width), the biases (side,
        side, width).
        """
        net, layer = self.network, self.layer
        width = (layer.width,)
        shape: tuple[int, ...] = (layer.kernel, layer.kernel, self.channels, layer.width)
        places: tuple[int, ...] = ()
        if layer.local:
            places = (self.side, self.side)
            shape = (*places, self.channels * layer.kernel**2, layer.width)
        bias = nn.initializers.constant(layer.bias)
        arrays = {
            "kernel": self.param("kernel", nn.initializers.normal(layer.std), shape),
            "bias": self.param("bias", bias, (*places, *width)),
        }
        running = {}
        if net.norm == "batch_norm" and "norm" in layer.after.split():
            arrays["scale"] = self.param("scale", nn.initializers.ones, width)
            arrays["shift"] = self.param("shift", nn.initializers.zeros, width)
            for name, start in (("mean", jnp.zeros), ("variance", jnp.ones)):
                running[name] = self.variable("batch_stats", name, start, width)
                arrays[name] = running[name].value
        return arrays, running


class TowerDense(nn.Module):
    """A fully connected layer: each tower computes its half of the units, from all of the inputs or
    from its own.

    A width that does not halve (an odd number of classes) is computed whole by both.
    """

    width: int
    std: float
    bias: float
    mesh: Mesh
    groups: int = 1  # of inputs and units, that see nothing of each other
    wide: bool = False  # float32 comes out, whatever goes in

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, ...) to (N, width)."""
        shape = (math.prod(x.shape[1:]) // self.groups, self.width)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.width,))
        own = spec_of((self.width,), self.mesh.shape["tower"])
        if self.groups > 1:
            units = self._apart(x, kernel)
        else:
            if self.mesh.shape["tower"] == 1:  # maps are kept as such for the towers alone
                x = x.reshape(x.shape[0], -1)
            units = operators.dense(x, kernel)
        units = operators.add_bias(units, bias)
        units = units if self.wide else units.astype(x.dtype)
        return constrain(units, self.mesh, PartitionSpec("data", *own))

    def _apart(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The products of groups that lie on the tower axis, side by side where it is 1."""
        count = self.groups // self.mesh.shape["tower"]

        def own(x: jax.Array, kernel: jax.Array) -> jax.Array:
            kernels = jnp.split(lax.pcast(kernel, "data", to="varying"), count, axis=1)
            inputs = [part.reshape(len(x), -1) for part in jnp.split(x, count, axis=-1)]
            return jnp.concatenate(list(map(operators.dense, inputs, kernels)), axis=1)

        images = PartitionSpec("data", *(None,) * (x.ndim - 2), "tower")
        units = PartitionSpec(None, "tower")
        out = PartitionSpec("data", "tower")
        return jax.shard_map(own, mesh=self.mesh, in_specs=(images, units), out_specs=out)(
            x, kernel
        )
