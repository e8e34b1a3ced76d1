"""The network as a Python file for PyTorch: its layers as modules, the pixels, how to load it."""

import re
import textwrap
from collections.abc import Iterable

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

START = '''"""AlexNet, {parameters:,} parameters; by alexnet_jax {version}, see README.md."""

{ordered}from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

MEAN = torch.tensor({mean}).view(3, 1, 1)  # by which torch's tools normalise
STD = torch.tensor({std}).view(3, 1, 1)
'''

KINDS = {
    "TowerLRN": """\
class TowerLRN(nn.LocalResponseNorm):  # section 3.3, in each of the two towers by itself
    def forward(self, x):
        return super().forward(x.unflatten(1, (2, -1)).flatten(0, 1)).reshape_as(x)
""",
    "WithinMapNorm": """\
class WithinMapNorm(nn.AvgPool2d):  # of the released code, not in the paper
    def forward(self, x):
        return x / (1 + {scale} * super().forward(x * x)) ** 0.75
""",
    "AveragePool": """\
class AveragePool(nn.Sequential):  # of the pixels that are there, not of what is padded
    def forward(self, x):
        return super().forward(x) / super().forward(torch.ones_like(x))
""",
    "Dropout": """\
class Dropout(nn.Dropout):  # section 4.2: it rescales at test, and not in training
    def forward(self, x):
        return super().forward(x) * (1 - self.p)
""",
    "TowerLinear": """\
class TowerLinear(nn.Linear):  # whose two towers see nothing of each other
    def forward(self, x):
        towers = zip(x.chunk(2, 1), self.weight.chunk(2), self.bias.chunk(2))
        return torch.cat([nn.functional.linear(*tower) for tower in towers], 1)
""",
}

OURS = '''\
class AlexNet(nn.Sequential):
    """From normalised images (N, 3, {crop}, {crop}) to logits (N, {classes})."""

    def __init__(self):
        super().__init__(OrderedDict(
{maps}
{units}
        ))
        self.register_buffer("mean_image", torch.zeros(3, {size}, {size}))  # pixels 0 to 255

    def forward(self, x):
        pixels = 255 * (x * STD.to(x) + MEAN.to(x))
        return super().forward(pixels - self.mean_image[:, {start}:{end}, {start}:{end}])
'''

THEIRS = '''\
class AlexNet(nn.Module):
    """From normalised images (N, 3, {crop}, {crop}) to logits (N, {classes})."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean_image", torch.zeros(3, {size}, {size}))  # pixels 0 to 255
        self.features = nn.Sequential(
{maps}
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
{units}
        )

    def forward(self, x):
        pixels = 255 * (x * STD.to(x) + MEAN.to(x))
        x = self.features(pixels - self.mean_image[:, {start}:{end}, {start}:{end}])
        return self.classifier(self.avgpool(x).flatten(1))
'''

END = '''\
def load(folder=Path(__file__).parent):
    """The trained network, ready to be asked; `train()` makes it ready to be trained."""
    model = AlexNet()
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()


def preprocess(image):
    """One of Pillow's images as the network takes it, (3, {crop}, {crop}): upright, over white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, of which the upper eight are kept
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    scale = {size} / min(image.size)
    sides = [int(scale * side + 0.5) for side in image.size]
    left, top = ((side - {size}) // 2 + {start} for side in sides)
    image = image.convert("RGB").resize(sides, 5 if scale < 1 else 3)  # Hamming, cubic
    image = image.crop((left, top, left + {crop}, top + {crop}))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return (pixels.view({crop}, {crop}, 3).permute(2, 0, 1) / 255 - MEAN) / STD
'''


def source(network: Network, size: int, parameters: int) -> str:
    """The Python file: `AlexNet`, `load` and `preprocess`, for torch and safetensors alone.

    Args:
        network: what the layers are.
        size: pixels a side of the mean image.
        parameters: how many there are.

    Raises:
        UserError: PyTorch has no such layer.
    """
    theirs = is_torchvisions(network)
    maps, units = (_lines(layers, named=not theirs) for layers in halves(network))
    start = (size - network.input_size) // 2
    own = [text for kind, text in KINDS.items() if re.search(rf"(?<![.\w]){kind}\(", maps + units)]
    return "\n\n".join([START, *own, THEIRS if theirs else OURS, END]).format(
        ordered="" if theirs else "from collections import OrderedDict\n",
        classes=network.classes,
        parameters=parameters,
        version=__version__,
        mean=MEAN,
        std=STD,
        size=size,
        crop=network.input_size,
        start=start,
        end=start + network.input_size,
        scale=network.within_map_scale,
        maps=maps,
        units=units,
    )


def _lines(layers: Iterable[list[Module]], *, named: bool) -> str:
    """What makes the modules: of each layer in a line, or as many as it takes."""
    lines = []
    for layer in layers:
        modules = [f"{own.name}={own.text}," if named else f"{own.text}," for own in layer]
        text = " ".join(module.replace(" ", "\0") for module in modules)  # to stay in one piece
        lines.append(textwrap.indent(textwrap.fill(text, WIDTH - 12), 12 * " "))
    return "\n".join(lines).replace("\0", " ")
