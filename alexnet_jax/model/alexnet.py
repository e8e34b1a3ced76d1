"""AlexNet, in the order of the paper's section 3.

    224x224x3 ─ conv1 ─ conv2 ═ conv3 ─ conv4 ─ conv5 ═ fc6 ═ fc7 ═ fc8 ─ softmax

A double line is where the two towers communicate. `Network` says what the layers are, `AlexNet` is
the Flax module that computes them on a mesh; its `init` and `apply` are pure functions.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax.model import cpu, layers, towers

AFTER_CONV = ("activation", "norm", "within_map_norm", "pool")
AFTER_DENSE = ("activation", "dropout")

Arrays = dict[str, jax.Array]
Stages = tuple[jax.Array, Arrays, dict[str, Arrays]]  # the last one, all by name, statistics


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolutional layer. A width of 0 takes the layer out, and what follows it."""

    width: int  # kernels, in both towers together
    kernel: int  # pixels
    stride: int = 1  # pixels
    padding: tuple[int, int] = (0, 0)  # zero rows (and columns) before and after
    communicates: bool = False  # sees the maps of both towers, not of its own alone
    std: float = 0.01  # of the initial weights
    bias: float = 0.0  # initial
    after: str = "activation"  # what follows the convolution, in order; words of `AFTER_CONV`
    pool_padding: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully connected layer, which sees both towers. A width of 0 takes the layer out."""

    width: int  # units, in both towers together
    std: float = 0.01
    bias: float = 1.0
    after: str = "activation dropout"


@dataclasses.dataclass(frozen=True)
class Network:
    """What the network is. The defaults are the `reconciled` reading (see `configs/presets.py`).

    Sources are paper sections and lines of the released `layers/layers-145.cfg`.
    """

    classes: int = 1000
    input_size: int = 224  # 227 gives the same maps: the zeros below are then never reached
    towers: int = 2  # 1: one dense network, as in the paper's footnote 2

    # (0, 3) is how 224 becomes 55: cuda-convnet rounds up, and reads zeros beyond the image
    # (layer.py:1004, filter_acts.cu:131).
    conv1: Conv = Conv(96, 11, 4, (0, 3), after="activation norm pool")
    conv2: Conv = Conv(256, 5, 1, (2, 2), bias=1.0, after="activation norm pool")
    conv3: Conv = Conv(384, 3, 1, (1, 1), communicates=True, std=0.03)
    conv4: Conv = Conv(384, 3, 1, (1, 1), std=0.03, bias=1.0)
    conv5: Conv = Conv(256, 3, 1, (1, 1), std=0.03, bias=1.0, after="activation pool")
    # Only in the pretrained nets ("1 CNN*"), at width 256: after pool5, unpooled
    # (layers-146-2012-2011.cfg).
    conv6: Conv = Conv(0, 3, 1, (1, 1), communicates=True, std=0.03, bias=1.0)
    fc6: Dense = Dense(4096)
    fc7: Dense = Dense(4096)
    fc8_std: float = 0.01  # the width of fc8 is the number of classes
    fc8_bias: float = 0.0

    activation: str = "relu"  # section 3.1; 'tanh' or 'sigmoid' for what came before
    norm: str = "lrn"  # what the word 'norm' does: section 3.3; 'batch_norm' or 'none'
    lrn_size: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 2e-5  # per squared response: 0.0001 over the window (layer.py:1183)
    lrn_beta: float = 0.75
    pool_window: int = 3  # section 3.4; 2 for pooling that does not overlap
    pool_stride: int = 2
    dropout: float = 0.5  # section 4.2; the share dropped, 0 for none

    def __post_init__(self) -> None:
        known = {"activation": tuple(layers.ACTIVATIONS), "norm": ("lrn", "batch_norm", "none")}
        for field, words in known.items():
            word = getattr(self, field)
            if word not in words:
                raise ValueError(f"model.{field}={word!r}: one of {', '.join(words)}")
        if self.towers not in (1, 2):
            raise ValueError(f"model.towers={self.towers}: the network has two towers, or is one")
        if self.classes < 2:
            raise ValueError(f"model.classes={self.classes}: a classifier needs two classes")
        every: dict[str, Conv | Dense] = {**self.convolutions(), **self.hidden()}
        for name, layer in every.items():
            allowed = AFTER_CONV if isinstance(layer, Conv) else AFTER_DENSE
            unknown = sorted(set(layer.after.split()) - set(allowed))
            if unknown:
                raise ValueError(
                    f"model.{name}.after={layer.after!r}: {unknown[0]} is none of "
                    f"{', '.join(allowed)}"
                )
            if layer.width < 0 or layer.width % self.towers:
                raise ValueError(
                    f"model.{name}.width={layer.width} does not divide into {self.towers} towers"
                )
        if not self.conv1.width:
            raise ValueError("model.conv1.width=0: the first layer cannot be taken out")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout}: a share from 0 to less than 1")
        self.final_maps()

    def sides(self) -> dict[str, tuple[int, int]]:
        """Of each convolutional layer's responses and of the maps that it passes on, in pixels.

        Raises:
            ValueError: a layer's window does not fit onto the maps it is given.
        """
        found = {}
        side = self.input_size
        for name, layer in self.convolutions().items():
            windows = [("kernel", layer.kernel, layer.stride, layer.padding)]
            if "pool" in layer.after.split():
                windows.append(("pool", self.pool_window, self.pool_stride, layer.pool_padding))
            sides = []
            for what, window, stride, padding in windows:
                padded = side + sum(padding)
                if window < 1 or stride < 1 or window > padded:
                    raise ValueError(
                        f"model.{name}: a {what} of {window} every {stride} pixels does not fit "
                        f"onto maps of {side} (padded {padded}); model.input_size={self.input_size}"
                    )
                side = (padded - window) // stride + 1
                sides.append(side)
            found[name] = sides[0], sides[-1]
        return found

    def final_maps(self) -> int:
        """The side, in pixels, of the maps that go into fc6: 6 for the network of 2012."""
        *_, (_, side) = self.sides().values()
        return side

    def convolutions(self) -> dict[str, Conv]:
        """The convolutional layers that are there, in order."""
        named = {f"conv{i}": getattr(self, f"conv{i}") for i in range(1, 7)}
        return {name: layer for name, layer in named.items() if layer.width}

    def parts(self) -> list[dict[str, Conv]]:
        """The convolutional layers from one communication of the towers to the next."""
        found: list[dict[str, Conv]] = [{}]
        for name, layer in self.convolutions().items():
            if layer.communicates and found[-1]:
                found.append({})
            found[-1][name] = layer
        return found

    def hidden(self) -> dict[str, Dense]:
        """The fully connected layers before the last that are there."""
        named = {"fc6": self.fc6, "fc7": self.fc7}
        return {name: layer for name, layer in named.items() if layer.width}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> "Network":
        """The network of nested plain values, such as the `model` part of a configuration.

        Raises:
            ValueError: a field that a network cannot have.
        """

        def layer(kind: type, name: str) -> Any:
            plain = dict(fields[name])
            pairs = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
            return kind(**pairs)

        kinds = {f.name: type(f.default) for f in dataclasses.fields(Network)}
        return Network(
            **{
                name: layer(kinds[name], name) if kinds[name] in (Conv, Dense) else value
                for name, value in fields.items()
            }
        )


class AlexNet(nn.Module):
    """The network on a mesh.

    `init(key, images)` gives `params` (global arrays, whatever the mesh) and, with batch norm,
    `batch_stats`. `apply` is described at `__call__`.
    """

    network: Network = Network()
    mesh: Mesh | None = None  # None: one device
    dtype: Any = jnp.float32  # of the activations; parameters, LRN and logits stay float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        masks: Mapping[str, jax.Array] | None = None,
        *,
        intermediates: bool = False,
    ) -> Any:
        """Computes the logits.

        Args:
            images: (N, S, S, 3), RGB on the scale 0..255 minus the mean image, not divided by
                anything: the initial weights are made for this scale.
            masks: what `dropout_masks` drew, for training. None is the network at test.
            intermediates: also return every named stage of every layer.

        Returns:
            (N, classes) logits; with `intermediates` a pair of them and a dictionary from 'conv1',
            'conv1/activation', 'conv1/norm', 'conv1/pool', ... 'fc8' to arrays.
        """
        net = self.network
        mesh = self.mesh if self.mesh is not None else towers.make_mesh(1, 1)
        if mesh.shape["tower"] > net.towers:
            raise ValueError(
                "a network of one tower does not spread over two: set mesh.tower=1 "
                "(more devices go to mesh.data)"
            )
        x, seen = self._convolutions(
            _narrow(self.dtype)(images), mesh, masks is not None, intermediates
        )
        x = towers.constrain(x, mesh, towers.MAPS_OF_BOTH_TOWERS)
        x = x.reshape(x.shape[0], -1)

        for name, dense in net.hidden().items():
            x = seen[name] = TowerDense(dense.width, dense.std, dense.bias, mesh, name=name)(x)
            for stage in dense.after.split():
                if stage == "dropout":
                    mask = None if masks is None else masks.get(name)
                    x = layers.dropout(x, mask, net.dropout)
                else:
                    x = layers.ACTIVATIONS[net.activation](x)
                seen[f"{name}/{stage}"] = x

        fc8 = TowerDense(net.classes, net.fc8_std, net.fc8_bias, mesh, name="fc8")
        logits = fc8(x)
        logits = seen["fc8"] = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return (logits, seen) if intermediates else logits

    def _convolutions(
        self, images: jax.Array, mesh: Mesh, training: bool, intermediates: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """All convolutional layers, in one `shard_map` over (data, tower).

        Returns:
            The maps of the last, (N, H, W, width), and if asked every stage of all.
        """
        net = self.network
        convolutions = net.convolutions()
        arrays: dict[str, dict[str, jax.Array]] = {}
        running: dict[str, dict[str, nn.Variable]] = {}
        channels = images.shape[-1]
        for name, conv in convolutions.items():
            sees = channels if _sees_all(name, conv) else channels // net.towers
            arrays[name], running[name] = Kernels(net, conv, sees, name=name)()
            for which in ("kernel", "bias"):
                arrays[name][which] = _narrow(self.dtype)(arrays[name][which])
            channels = conv.width

        # The one place where the platform decides.
        batch_norm = any(running.values())
        plain = towers.platform(mesh) != "cpu" or intermediates or batch_norm
        tower = Tower(
            net,
            count=net.towers // mesh.shape["tower"],
            operators=layers.OPERATORS if plain else cpu.OPERATORS,
            training=training,
            intermediates=intermediates,
        )
        own = PartitionSpec("tower")
        last_axis = {"kernel": PartitionSpec(None, None, None, "tower")}
        places = {name: {k: last_axis.get(k, own) for k in arrays[name]} for name in arrays}
        x, seen, statistics = jax.shard_map(
            tower,
            mesh=mesh,
            in_specs=(towers.IMAGES, places),
            out_specs=(towers.MAPS_OF_OWN_TOWER, towers.MAPS_OF_OWN_TOWER, own),
        )(images, arrays)
        if training and not self.is_initializing():
            for name, variables in running.items():
                for which, variable in variables.items():
                    variable.value = 0.9 * variable.value + 0.1 * statistics[name][which]
        in_order = [
            stage
            for name, conv in convolutions.items()
            for stage in (name, *(f"{name}/{after}" for after in conv.after.split()))
        ]
        return x, {stage: seen[stage] for stage in in_order if intermediates}

    def dropout_masks(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """Draws which units stay, for one training step: a (N, width) array of bools per layer.

        Drawn at the global shape, so that a seed means the same run on every mesh and no two towers
        share a mask.
        """
        mesh = self.mesh if self.mesh is not None else towers.make_mesh(1, 1)
        masks = {}
        for number, (name, dense) in enumerate(self.network.hidden().items()):
            if "dropout" in dense.after.split() and self.network.dropout:
                shape = (batch_size, dense.width)
                mask = jax.random.bernoulli(
                    jax.random.fold_in(key, number), 1 - self.network.dropout, shape
                )
                masks[name] = towers.constrain(mask, mesh, towers.UNITS_OF_OWN_TOWER)
        return masks


class Kernels(nn.Module):
    """The parameters of a convolutional layer."""

    network: Network
    layer: Conv
    channels: int  # that each kernel sees

    @nn.compact
    def __call__(self) -> tuple[dict[str, jax.Array], dict[str, nn.Variable]]:
        """The kernels (K, K, channels, width) and biases; and batch norm's running averages."""
        net, layer = self.network, self.layer
        width = (layer.width,)
        shape = (layer.kernel, layer.kernel, self.channels, layer.width)
        arrays = {
            "kernel": self.param("kernel", nn.initializers.normal(layer.std), shape),
            "bias": self.param("bias", nn.initializers.constant(layer.bias), width),
        }
        running = {}
        if net.norm == "batch_norm" and "norm" in layer.after.split():
            arrays["scale"] = self.param("scale", nn.initializers.ones, width)
            arrays["shift"] = self.param("shift", nn.initializers.zeros, width)
            for name, start in (("mean", jnp.zeros), ("variance", jnp.ones)):
                running[name] = self.variable("batch_stats", name, start, width)
                arrays[name] = running[name].value
        return arrays, running


@dataclasses.dataclass(frozen=True)
class Tower:
    """What one device computes of the convolutional layers: one tower, or both side by side."""

    network: Network
    count: int  # of the towers on this device
    operators: layers.Operators
    training: bool
    intermediates: bool

    def __call__(self, x: jax.Array, arrays: Mapping[str, Arrays]) -> tuple[Any, Any, Any]:
        """Inside `shard_map`, from this device's images and its share of the parameters.

        Returns:
            The maps of the last layer; if asked every stage of all; the statistics of batch norm.
        """
        seen: Arrays = {}
        statistics: dict[str, Arrays] = {}
        x = jax.lax.pcast(x, "tower", to="varying")
        for part in self.network.parts():
            first, *_ = part.values()
            if first.communicates and self.count < self.network.towers:
                x = jax.lax.all_gather(x, "tower", axis=3, tiled=True)
            x, stages, more = self._part(x, part, arrays)
            seen |= stages
            statistics |= more
        return x, seen if self.intermediates else {}, statistics

    def _part(self, x: jax.Array, part: Mapping[str, Conv], arrays: Mapping[str, Arrays]) -> Stages:
        """Layers between which the towers do not communicate."""
        net, operators = self.network, self.operators
        sides = net.sides()
        largest = max(sides[name][0] ** 2 * conv.width for name, conv in part.items())
        bytes_here = largest * x.dtype.itemsize * self.count // net.towers
        few = operators.portion(x.shape[0], bytes_here)
        groups, kernels, biases = {}, {}, {}
        for name, conv in part.items():
            kernel, biases[name] = (
                jax.lax.pcast(arrays[name][which], "data", to="varying")
                for which in ("kernel", "bias")
            )
            groups[name] = 1 if _sees_all(name, conv) else self.count
            kernels[name] = operators.kernels(kernel, conv.stride, groups[name], few)

        def respond(name: str, x: jax.Array) -> jax.Array:
            conv, (activation, _) = part[name], self._stages(part[name])
            shape = conv.stride, conv.padding, groups[name]
            return operators.respond(x, kernels[name], biases[name], *shape, activation)

        def layer_by_layer(x: jax.Array, names: list[str], begun: bool) -> Stages:
            seen: Arrays = {}
            statistics: dict[str, Arrays] = {}
            for name in names:
                conv = part[name]
                x = seen[name] = x if begun and name == names[0] else respond(name, x)
                statistics[name] = {}
                for stage in self._stages(conv)[1]:
                    if stage == "norm" and net.norm == "batch_norm":
                        x, statistics[name] = _batch_norm(x, arrays[name], self.training)
                    else:
                        x = _stage(stage, x, net, conv, self.count, operators.apart)
                    seen[f"{name}/{stage}"] = x
            return x, seen if self.intermediates else {}, statistics

        seen: Arrays = {}
        statistics: dict[str, Arrays] = {}
        for names in _runs(list(part), lambda name: operators.may_loop(kernels[name])):
            begun = not operators.may_loop(kernels[names[0]])
            x = respond(names[0], x) if begun else x
            found: Stages = operators.in_portions(
                partial(layer_by_layer, names=names, begun=begun), x, few
            )
            x = found[0]
            seen |= found[1]
            statistics |= found[2]
        return x, seen, statistics

    def _stages(self, conv: Conv) -> tuple[str, list[str]]:
        """The activation that is part of the convolution, and what comes after."""
        after = conv.after.split()
        if after[:1] == ["activation"] and not self.intermediates:
            return self.network.activation, after[1:]
        return "linear", after


def _runs(names: list[str], may_loop: Callable[[str], bool]) -> list[list[str]]:
    """The layers that go through a loop together; one that may not begins a new run."""
    runs: list[list[str]] = []
    for name in names:
        if not runs or not may_loop(name):
            runs.append([])
        runs[-1].append(name)
    return runs


class TowerDense(nn.Module):
    """A fully connected layer: each tower computes its half of the units from all of the inputs.

    The constraint on the input is the towers' communication. A width that does not halve (an odd
    number of classes) is computed whole by both.
    """

    width: int
    std: float
    bias: float
    mesh: Mesh

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, I) to (N, width)."""
        shape = (x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.width,))
        x = towers.constrain(x, self.mesh, towers.UNITS_OF_BOTH_TOWERS)
        own = towers.spec_of((self.width,), self.mesh.shape["tower"])
        units = x @ kernel.astype(x.dtype) + bias.astype(x.dtype)
        return towers.constrain(units, self.mesh, PartitionSpec("data", *own))


def _sees_all(name: str, conv: Conv) -> bool:
    """Whether a layer's kernels see all channels: both towers' maps, or the image."""
    return conv.communicates or name == "conv1"


def _narrow(dtype: Any) -> Callable[[jax.Array], jax.Array]:
    """Casts what is float32 to `dtype`; the float64 of a test stays what it is."""
    return lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x


def _stage(
    stage: str, x: jax.Array, net: Network, layer: Conv, towers_here: int, apart: layers.Apart
) -> jax.Array:
    match stage:
        case "activation":
            return apart(layers.ACTIVATIONS[net.activation])(x)
        case "norm" if net.norm == "lrn":
            return layers.local_response_norm(
                x,
                size=net.lrn_size,
                k=net.lrn_k,
                alpha=net.lrn_alpha,
                beta=net.lrn_beta,
                towers=towers_here,
                apart=apart,
            )
        case "norm":
            return x
        case "within_map_norm":
            return apart(layers.within_map_norm)(x)
        case "pool":
            window, stride = net.pool_window, net.pool_stride
            return apart(lambda x: layers.max_pool(x, window, stride, layer.pool_padding))(x)
    raise ValueError(f"no {stage} after a convolution")


def _batch_norm(
    x: jax.Array, norm: dict[str, jax.Array], training: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
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
