"""The card of an exported network: what it is, where it is from, what it takes, how to load it."""

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import __version__
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange import torch_modules, torch_source
from alexnet_jax.exchange.weights import PIXELS
from alexnet_jax.model import Network
from alexnet_jax.run.metrics import read_rows
from alexnet_jax.settings.places import without_folder

TORCHVISIONS = """
The state dict for torchvision's own class, `torchvision.models.alexnet(num_classes={classes})`:

```python
from alexnet import STD, load
weights = load().state_dict()
del weights["mean_image"]
weights["features.0.weight"] *= 255 * STD
for name in ("classifier.1.weight", "classifier.4.weight"):
    weights[name] *= {kept}  # there dropout rescales in training
```
"""
MEASURED = {"examples", "top1_error", "top5_error"}
NAMED = 20  # classes; of more the card has the first and the last

WIDTH = 100  # of a line

CARD = """---
library_name: pytorch
pipeline_tag: image-classification
---

# AlexNet for {classes:,} classes

The network of *ImageNet Classification with Deep Convolutional Neural Networks* (Krizhevsky,
Sutskever and Hinton, 2012){kind}: {parameters:,} parameters.

{origin}

{errors}

## Use it

`alexnet.py` needs torch and safetensors, and nothing of the program that wrote it. In this folder:

```python
from PIL import Image
from alexnet import load, preprocess
model = load()
logits = model(preprocess(Image.open("photo.jpg"))[None])  # (1, {classes})
print(logits.softmax(-1).topk({top}))
```

`model` is a `torch.nn.Module` like any other, to be trained on as well.
{torchvisions}
## Pixels

It takes RGB images (N, 3, {crop}, {crop}) as torch's tools make them by default: pixels from 0 to
1, minus {mean}, over {std}. From them it goes back to the scale of 0 to 255 and subtracts the mean
image of its training (`mean_image`), which you need not do.
`preprocess` scales the shorter side to {size} pixels and takes the central {crop}x{crop}; Pillow
scales within about a grey level of what the network was trained on.

## Layers

For whoever asks for a layer by its name:

{layers}

{sums}
## In other tools

THINGSvision:

```python
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset
from alexnet import load, preprocess
extractor = get_extractor_from_model(load(), "cpu", backend="pt", preprocess=preprocess)
dataset = ImageDataset("photos", "out", backend="pt", transforms=preprocess)
batches = DataLoader(dataset, batch_size=32, backend="pt")
features = extractor.extract_features(batches, "{layer}", flatten_acts=True)
```

Brain-Score:

```python
import torch
from brainscore_vision.model_helpers.activations.pytorch import PytorchWrapper
from PIL import Image
from alexnet import load, preprocess
def images(paths):
    return torch.stack([preprocess(Image.open(path)) for path in paths])
features = PytorchWrapper(load(), images, "alexnet")(["photo.jpg"], layers=["{layer}"])
```

So `alexnet_jax.features` gives the same, but for what Pillow's scaling changes. Without
`preprocess` THINGSvision scales by another filter, and Brain-Score squeezes an image into a square.
Net2Brain takes `load()` in the `get_model` of a NetSet of yours.

## Classes

{names}

## Files

`model.safetensors` is the state dict, and `config.json` says what it is. Made by alexnet_jax
{version}, which makes a run of them again in which every number is what it was:

    python -m alexnet_jax.convert FOLDER --out=W

## Licence

Not stated. The program that wrote this card does not know under what terms the weights, and the
images they were trained on, may be used: say so here before you pass them on.
"""


def card(trained: TrainedNetwork, about: Mapping[str, Any], parameters: int) -> str:
    """The card, as Markdown.

    Args:
        trained: the network, of a run's directory.
        about: what config.json says.
        parameters: how many there are.
    """
    network = trained.viewer.model.network
    rows = [", ".join(f"`{path}`" for path, _ in row) for row in torch_modules.paths(network)]
    places = torch_modules.places(network)
    pools = [place for stage, place in places.items() if stage.endswith("pool")]
    text = CARD.format(
        classes=network.classes,
        kind=_kind(trained),
        parameters=parameters,
        origin=about["origin"],
        errors=errors(trained),
        top=min(5, network.classes),
        torchvisions=torchvisions(network, np.asarray(trained.viewer.mean_image)),
        size=trained.size,
        crop=network.input_size,
        mean=torch_source.MEAN,
        std=torch_source.STD,
        layers="\n".join(f"- {row}" for row in rows),
        sums=_sums(places),
        layer=[places["fc8"], *pools][-1],
        names=_names(about["classes"]),
        version=__version__,
    )
    return "\n\n".join(_filled(paragraph) for paragraph in text.split("\n\n")) + "\n"


def _sums(places: Mapping[str, str]) -> str:
    """Which module is meant by a layer's plain name."""
    for stage, place in places.items():
        name, _, word = stage.partition("/")
        if word == "activation":
            return (
                f"Caffe and `alexnet_jax.features` call {name} what comes out of `{place}`; "
                f"`{places[name]}` gives the sums before.\n"
            )
    return ""


def torchvisions(network: Network, mean_image: np.ndarray) -> str:
    """How torchvision's own class can be it: if it is one, and subtracts one pixel everywhere.

    Args:
        network: what the layers are.
        mean_image: (S, S, 3).
    """
    mean = np.array(PIXELS["torchvision"].mean, np.float32)
    if not (torch_modules.is_torchvisions(network) and (mean_image == mean).all()):
        return ""
    return TORCHVISIONS.format(classes=network.classes, kept=1 - network.dropout)


def _filled(paragraph: str) -> str:
    """Prose in lines of one width; titles, lists, tables and code as they are."""
    prose = paragraph[:1].isalpha() or re.match(r"`\w", paragraph)
    if not prose:
        return paragraph.strip("\n")
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def _kind(trained: TrainedNetwork) -> str:
    network = trained.viewer.model.network
    if torch_modules.is_torchvisions(network):
        return " as torchvision has it"
    return " in two towers, as two groups of kernels" if network.towers == 2 else " in one tower"


def origin(trained: TrainedNetwork) -> str:
    """Where the weights are from, a sentence or two."""
    config = trained.config
    converted = Path(trained.name, "converted.json")
    if converted.is_file():
        made = json.loads(converted.read_bytes())
        return made.get("origin") or (
            f"Its weights were read from `{made['file']}`, {made['format']}, sha256 "
            f"{made['sha256']}. How they were trained is not said there."
        )
    text = (
        f"Trained by alexnet_jax {__version__} on `{without_folder(config.data.source)}`: "
        f"{trained.step:,} steps of {config.batch_size:,} images, of a run of {config.epochs:g} "
        f"epochs, seed {config.seed}, preset `{config.preset}`."
    )
    if config.init_from:
        text += f" It began with the weights of another run, `{Path(config.init_from).name}`."
    return text


def errors(trained: TrainedNetwork) -> str:
    """What the run has measured at this step, as a table."""
    found = {
        (row["split"], row["views"]): row
        for row in read_rows(Path(trained.name, "metrics.jsonl"))
        if row["step"] == trained.step and row["split"] != "train" and row.keys() >= MEASURED
    }
    if not found:
        return "Its error is not known here: nothing was measured with these weights."
    lines = ["| images | views of each | top-1 error | top-5 error |", "| --- | --: | --: | --: |"]
    data = trained.config.data
    for (role, views), row in found.items():
        split = data[role]
        told = f"`{split}`" + ", the training images" * (split == data.train)
        top1, top5 = (f"{row[name]:.2%}" for name in ("top1_error", "top5_error"))
        lines.append(f"| {row['examples']:,} of {told} | {views} | {top1} | {top5} |")
    return "\n".join(lines)


def _names(classes: list[str]) -> str:
    shown = [(label, name) for label, name in enumerate(classes)]
    if len(classes) > NAMED:
        shown = [*shown[:10], *shown[-1:]]
    lines = [f"- {label}: {_plain(name)}" for label, name in shown]
    if len(classes) > NAMED:
        lines.insert(-1, f"- and so on; `config.json` has all {len(classes):,} under `classes`")
    return "\n".join(lines)


def _plain(name: str) -> str:
    """A name in which Markdown sees nothing."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in name)
