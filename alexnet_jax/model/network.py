"""What the network is: its layers and their numbers, and nothing that computes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alexnet_jax.model import operators

LAYERS = (*(f"conv{number}" for number in range(1, 7)), "fc6", "fc7", "fc8")  # in order
AFTER_CONV = ("activation", "norm", "within_map_norm", "pool", "average_pool", "dropout")
POOLS = {"pool", "average_pool"}
AFTER_DENSE = ("activation", "dropout")


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
    pool_padding: tuple[int, int] = (0, 0)  # of the pool: rows, and columns, of nothing
    local: bool = False  # kernels and biases are others at every place of the maps
    decay: float = 1.0  # of the kernels: so many times optim.weight_decay
    # Of the kernels: so many times the rates. Of converted ones it is 1 over the square of what
    # they were divided by, and decay that square: they learn as they did where they come from.
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully connected layer. A width of 0 takes the layer out."""

    width: int  # units, in both towers together
    std: float = 0.01  # of the initial weights
    bias: float = 1.0  # initial
    after: str = "activation dropout"  # what follows, in order; words of `AFTER_DENSE`
    communicates: bool = True  # sees both towers; not in 2012's net #150 (layers-150.cfg)
    decay: float = 1.0  # of the weights: so many times optim.weight_decay
    rate: float = 1.0  # of the weights: so many times the rates, see `Conv`


@dataclasses.dataclass(frozen=True)
class Network:
    """What the network is. The defaults are the `reconciled` reading (see `settings/presets.py`).

    Sources are paper sections and lines of the released `layers/layers-145.cfg`.
    """

    classes: int = 1000  # of ILSVRC; the width of fc8
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
    fc8_std: float = 0.01  # of the initial weights
    fc8_bias: float = 0.0  # initial
    fc8_decay: float = 1.0  # so many times optim.weight_decay

    activation: str = "relu"  # section 3.1; 'tanh' or 'sigmoid' for what came before
    norm: str = "lrn"  # what the word 'norm' does: section 3.3; 'batch_norm' or 'none'
    lrn_size: int = 5  # channels in a window (section 3.3)
    lrn_k: float = 2.0  # section 3.3
    lrn_alpha: float = 2e-5  # per squared response: 0.0001 over the window (layer.py:1183)
    lrn_beta: float = 0.75  # section 3.3
    lrn_across_towers: bool = False  # Caffe's LRN; in 2012 it stayed inside a tower (section 3.3)
    within_map_size: int = 5  # pixels a side of what 'within_map_norm' sees (layers-145.cfg:107)
    within_map_scale: float = 0.001  # of the mean square (layer-params-145.cfg:157)
    pool_window: int = 3  # section 3.4; 2 for pooling that does not overlap
    pool_stride: int = 2  # pixels
    dropout: float = 0.5  # section 4.2; the share dropped, 0 for none

    def __post_init__(self) -> None:
        known = {"activation": tuple(operators.ACTIVATIONS), "norm": ("lrn", "batch_norm", "none")}
        for field, words in known.items():
            word = getattr(self, field)
            if word not in words:
                raise ValueError(f"model.{field}={word!r}: one of {', '.join(words)}")
        if self.towers not in (1, 2):
            raise ValueError(f"model.towers={self.towers}: the network has two towers, or is one")
        if self.classes < 2:
            raise ValueError(f"model.classes={self.classes}: a classifier needs two classes")
        if self.lrn_size < 1 or self.lrn_size % 2 == 0:
            raise ValueError(
                f"model.lrn_size={self.lrn_size}: an odd number of channels, with one in the middle"
            )
        if self.within_map_size < 1 or self.within_map_size % 2 == 0:
            raise ValueError(
                f"model.within_map_size={self.within_map_size}: an odd number of pixels, with one "
                "in the middle"
            )
        if not self.lrn_k > 0:
            raise ValueError(f"model.lrn_k={self.lrn_k}: must be greater than 0")
        for field in ("lrn_alpha", "lrn_beta", "within_map_scale", "fc8_std", "fc8_decay"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"model.{field}={getattr(self, field)}: must not be negative")
        for name, layer in self.layers().items():
            allowed = AFTER_CONV if isinstance(layer, Conv) else AFTER_DENSE
            unknown = sorted(set(layer.after.split()) - set(allowed))
            if unknown:
                raise ValueError(
                    f"model.{name}.after={layer.after!r}: {unknown[0]} is none of "
                    f"{', '.join(allowed)}"
                )
            if set(layer.after.split()) >= POOLS:
                raise ValueError(f"model.{name}.after={layer.after!r}: one pool, not both")
            if len(set(layer.after.split())) < len(layer.after.split()):
                raise ValueError(f"model.{name}.after={layer.after!r}: each word once")
            for field in ("std", "decay", "rate"):
                if not getattr(layer, field) >= 0:
                    value = getattr(layer, field)
                    raise ValueError(f"model.{name}.{field}={value}: must not be negative")
            if layer.width < 0 or layer.width % self.towers:
                raise ValueError(
                    f"model.{name}.width={layer.width} does not divide into {self.towers} towers"
                )
        if not self.conv1.width:
            raise ValueError("model.conv1.width=0: the first layer cannot be taken out")
        for name, layer in self.convolutions().items():
            if "dropout" in layer.after.split()[:-1]:
                raise ValueError(
                    f"model.{name}.after={layer.after!r}: dropout is the last that happens to maps"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout}: a share from 0 to less than 1")
        self.final_maps()

    def sides(self) -> dict[str, tuple[int, int]]:
        """The sides, in pixels, of each convolution's responses and of the maps that it passes on.

        Raises:
            ValueError: a layer's window does not fit onto the maps it is given.
        """
        found = {}
        side = self.input_size
        for name, layer in self.convolutions().items():
            windows = [("kernel", layer.kernel, layer.stride, layer.padding)]
            if POOLS & set(layer.after.split()):
                windows.append(("pool", self.pool_window, self.pool_stride, layer.pool_padding))
                if max(layer.pool_padding) >= self.pool_window:
                    raise ValueError(
                        f"model.{name}.pool_padding={layer.pool_padding}: less than "
                        f"model.pool_window={self.pool_window}, or a window holds no pixel"
                    )
            sides = []
            for what, window, stride, padding in windows:
                padded = side + sum(padding)
                if window < 1 or stride < 1 or min(padding) < 0 or window > padded:
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

    def stages(self) -> list[str]:
        """The stages of the convolutional layers in order: 'conv1', 'conv1/activation', ..."""
        return [
            f"{name}/{word}" if word else name
            for name, layer in self.convolutions().items()
            for word in ("", *layer.after.split())
        ]

    def sees_all(self, name: str) -> bool:
        """Whether a layer sees all that comes to it: both towers, or the image."""
        return name in ("conv1", "fc8") or self.layers()[name].communicates

    def decays(self) -> dict[str, float]:
        """How many times optim.weight_decay the weights of each layer decay."""
        decays = {name: layer.decay for name, layer in self.layers().items()}
        return decays | {"fc8": self.fc8_decay}

    def rates(self) -> dict[str, float]:
        """How many times the rates the kernels of each layer learn at; of fc8 once."""
        return {name: layer.rate for name, layer in self.layers().items()}

    def layers(self) -> dict[str, Conv | Dense]:
        """The layers that are there, in order; but for fc8, which always is."""
        return {**self.convolutions(), **self.hidden()}

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
