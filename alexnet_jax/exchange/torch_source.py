"""The network as a Python file for PyTorch: its layers as modules, the pixels, how to load it."""

import re
import textwrap
from collections.abc import Iterable

import numpy as np

from alexnet_jax import __version__
from alexnet_jax.exchange.torch_modules import Module, halves, is_torchvisions
from alexnet_jax.exchange.weights import PIXELS
from alexnet_jax.model.network import Network

WIDTH = 100  # of a line
# What the pipelines of torch's users make of pixels: torchvision's transforms, and by default
# THINGSvision, Brain-Score and Net2Brain.
MEAN = tuple(round(mean / 255, 6) for mean in PIXELS["torchvision"].mean)
STD = tuple(round(deviation / 255, 6) for deviation in PIXELS["torchvision"].divisor)

# --- the parts of the file, those that the network needs ------------------------------------------

START = '''"""AlexNet for {classes:,} classes in PyTorch, {parameters:,} parameters; see README.md.

Made by alexnet_jax {version}. Needs torch and safetensors.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

MEAN = torch.tensor({mean}).view(3, 1, 1)  # by which torch's pipelines normalise
STD = torch.tensor({std}).view(3, 1, 1)


class Pixels(nn.Module):
    """From normalised images to what the network sees: 0 to 255 minus the mean image."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean_image", torch.zeros(3, {size}, {size}))

    def forward(self, x):
        mean = self.mean_image[:, {start}:{end}, {start}:{end}] - 255 * MEAN.to(x)
        return x * (255 * STD.to(x)) - mean
'''

KINDS = {
    "TowerLRN": '''\
class TowerLRN(nn.LocalResponseNorm):
    """Section 3.3: over neighbouring channels, in each of the two towers by itself."""

    def forward(self, x):
        towers = x.reshape(2 * len(x), -1, *x.shape[2:])
        return super().forward(towers).reshape(x.shape)
''',
    "WithinMapNorm": '''\
class WithinMapNorm(nn.Module):
    """The norm of the released code that is not in the paper: over the pixels of one map."""

    def __init__(self, size, scale):
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x):
        squares = nn.functional.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x / (1 + self.scale * squares) ** 0.75
''',
    "AveragePool": '''\
class AveragePool(nn.Module):
    """Means of the pixels that are there: what lies beyond the maps counts for nothing."""

    def __init__(self, size, stride, padding):
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x):
        sums, counts = (
            nn.functional.avg_pool2d(nn.functional.pad(a, self.padding), self.size, self.stride)
            for a in (x, torch.ones_like(x))
        )
        return sums / counts
''',
    "Dropout": '''\
class Dropout(nn.Dropout):
    """That of 2012 (section 4.2): nothing is rescaled in training, all units are at test."""

    def forward(self, x):
        return x * (torch.rand_like(x) >= self.p) if self.training else x * (1 - self.p)
''',
    "TowerLinear": '''\
class TowerLinear(nn.Linear):
    """A fully connected layer whose two towers see nothing of each other."""

    def forward(self, x):
        towers = zip(x.chunk(2, 1), self.weight.chunk(2), self.bias.chunk(2))
        return torch.cat([nn.functional.linear(*tower) for tower in towers], 1)
''',
}

OURS = '''\
class AlexNet(nn.Sequential):
    """From images (N, 3, {crop}, {crop}) to logits (N, {classes})."""

    def __init__(self):
        super().__init__()
        layers = dict(
            pixels=Pixels(),
{maps}
            flatten=nn.Flatten(),
{units}
        )
        for name, layer in layers.items():
            self.add_module(name, layer)
'''

THEIRS = '''\
class AlexNet(nn.Module):
    """From images (N, 3, {crop}, {crop}) to logits (N, {classes}), as torchvision's."""

    def __init__(self):
        super().__init__()
        self.pixels = Pixels()
        self.features = nn.Sequential(
{maps}
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
{units}
        )

    def forward(self, x):
        x = self.avgpool(self.features(self.pixels(x)))
        return self.classifier(x.flatten(1))
'''

END = '''\
def load(folder=Path(__file__).parent):
    """The trained network, ready to be asked; `train()` makes it ready to be trained."""
    model = AlexNet()
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()


def preprocess(image):
    """One of Pillow's images as the network takes it, (3, {crop}, {crop})."""
    scale = {size} / min(image.size)
    sides = [int(scale * side + 0.5) for side in image.size]
    left, top = ((side - {size}) // 2 + {start} for side in sides)
    image = image.convert("RGB").resize(sides, 5 if scale < 1 else 3)  # Hamming, cubic
    image = image.crop((left, top, left + {crop}, top + {crop}))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return (pixels.view({crop}, {crop}, 3).permute(2, 0, 1) / 255 - MEAN) / STD
'''

FOR_TORCHVISION = '''\
def for_torchvision(model):
    """The state dict for `torchvision.models.alexnet(num_classes={classes})`."""
    weights = model.state_dict()
    del weights["pixels.mean_image"]  # MEAN
    first = weights["features.0.weight"]
    weights["features.0.weight"] = first * (255 * STD.to(first))
    for name in ("classifier.1.weight", "classifier.4.weight"):  # there dropout rescales
        weights[name] = {kept} * weights[name]
    return weights
'''


def source(network: Network, mean_image: np.ndarray, parameters: int) -> str:
    """The Python file: `AlexNet`, `load` and `preprocess`, for torch and safetensors alone.

    Args:
        network: what the layers are.
        mean_image: (S, S, 3).
        parameters: how many there are.

    Raises:
        UserError: PyTorch has no such layer.
    """
    theirs = is_torchvisions(network)
    maps, units = (_lines(layers, named=not theirs) for layers in halves(network))
    size, crop = len(mean_image), network.input_size
    start = (size - crop) // 2
    values = {
        "classes": network.classes,
        "parameters": parameters,
        "version": __version__,
        "mean": MEAN,
        "std": STD,
        "size": size,
        "crop": crop,
        "start": start,
        "end": start + crop,
        "kept": 1 - network.dropout,
        "maps": maps,
        "units": units,
    }
    own = [text for kind, text in KINDS.items() if re.search(rf"(?<![.\w]){kind}\(", maps + units)]
    parts = [START, *own, THEIRS if theirs else OURS, END]
    if is_for_torchvision(network, mean_image):
        parts.append(FOR_TORCHVISION)
    return "\n\n".join(parts).format(**values)


def is_for_torchvision(network: Network, mean_image: np.ndarray) -> bool:
    """Whether torchvision's own class can be it: that subtracts one pixel everywhere."""
    mean = np.array(PIXELS["torchvision"].mean, np.float32)
    return is_torchvisions(network) and bool((mean_image == mean).all())


def _lines(layers: Iterable[list[Module]], *, named: bool) -> str:
    """What makes the modules: of each layer in a line, or as many as it takes."""
    lines = []
    for layer in layers:
        modules = [f"{own.name}={own.text}," if named else f"{own.text}," for own in layer]
        text = " ".join(module.replace(" ", "\0") for module in modules)  # to stay in one piece
        lines.append(textwrap.indent(textwrap.fill(text, WIDTH - 12), 12 * " "))
    return "\n".join(lines).replace("\0", " ")
