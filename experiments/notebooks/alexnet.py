# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The AlexNet paper, run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/alexnet-jax/alexnet_jax/blob/main/experiments/notebooks/alexnet.ipynb)
#
# Eight layers in two towers, trained, tested, asked and looked into: Krizhevsky, Sutskever and
# Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, 2012. Two minutes on
# two cores, and one more the first time, when the dataset is drawn. On Colab choose a GPU or a TPU
# first.
#
# The network has a quarter of AlexNet's widths. Section numbers are the paper's.

# %%
# On a fresh Colab the package is not there yet.
try:
    import alexnet_jax
except ModuleNotFoundError:
    # %pip install -q git+https://github.com/alexnet-jax/alexnet_jax
    import alexnet_jax

import tempfile
from pathlib import Path

import jax
import numpy as np
from IPython.display import Image, Markdown, display

from alexnet_jax import settings
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.evaluation.answers import Answer
from alexnet_jax.evaluation.neighbours import nearest
from alexnet_jax.evaluation.why import silenced
from alexnet_jax.pictures import figure4, of_runs
from alexnet_jax.pictures.network_table import network_table
from alexnet_jax.run.devices import start_devices
from alexnet_jax.training import train

workdir = Path(tempfile.mkdtemp()) / "alexnet"

# %% [markdown]
# ## Section 3.2: two towers
#
# On a CPU two virtual devices stand for the two GPUs of 2012; on a single GPU or TPU both towers
# share it, and more devices become a `(data, tower)` mesh.

# %%
config = settings.override(settings.load("embedded"), ["epochs=2", "keep_checkpoints=1"])
start_devices(config)
print(jax.devices())

# %% [markdown]
# ## Section 3: the network
#
# The full one, layer by layer. 60 million parameters; layers 2, 4 and 5 see only their own tower.

# %%
Markdown(network_table(alexnet_jax.Network()))

# %% [markdown]
# ## Section 5: training
#
# A configuration holds every number. Two of the eight epochs are enough for pictures.

# %%
scores = train(config, workdir)

# %% [markdown]
# ## Section 6.1: what the towers have learned
#
# Figure 3: the kernels of the first layer, tower by tower. The share of colour is that of a
# kernel's squared weights off the grey axis: the paper saw one tower "largely color-agnostic" and
# the other "largely color-specific".

# %%
of_runs.draw([workdir], workdir / "figures")
display(Image(workdir / "figures" / "conv1.png"))

# %%
display(Image(workdir / "figures" / "curves.png"))

# %% [markdown]
# ## Figure 4, left: eight test images and what the network says

# %%
network = alexnet_jax.load(workdir)
data = ensure_cache(config.data.source, config.data.size, config.data.dir)
images, labels = data.images["test"], data.labels["test"]

answers = [
    Answer(f"image {i}", "", images[i], probabilities, labels[i])
    for i, probabilities in enumerate(network.predict(images[:8]))
]
figure4.draw_answers(answers, network.classes, workdir / "predictions.jpg")
display(Image(workdir / "predictions.jpg"))

# %% [markdown]
# ## Figure 4, right: neighbours in the last hidden layer
#
# The Euclidean distance between the activations of fc7. The pictures can differ in every pixel.

# %%
features = network.features(images[:1000], "fc7")
found, distances = nearest(features, features[:3], 7)


def shown(i: int) -> figure4.Shown:
    return figure4.Shown(images[i], network.classes[labels[i]], labels[i])


rows = [  # the nearest to an image is itself
    figure4.Neighbours(shown(q), [(shown(i), far) for i, far in zip(found[q], distances[q])][1:])
    for q in range(3)
]
figure4.draw_neighbours(rows, workdir / "neighbours.jpg")
display(Image(workdir / "neighbours.jpg"))

# %% [markdown]
# ## Section 4.1: one view and ten
#
# The paper averages the probabilities of ten views; its readers ask whether the logits would do as
# well. With 200 images the difference is noise: the program's own test
# (`python -m alexnet_jax.main --workdir=... --mode=evaluate --ensemble=...`) says how much of it.

# %%
some, truth = images[:200], labels[:200]
one = network.predict(some)
ten = network.predict(some, ten_views=True)
logits = np.mean([network.logits(some, view) for view in range(10)], axis=0)
for name, answer in {"one view": one, "ten views": ten, "ten views, logits": logits}.items():
    print(f"{name:<18} top-1 error {np.mean(answer.argmax(1) != truth):.1%} of 200 images")

# %% [markdown]
# ## Two claims, tried
#
# `python -m experiments.claims` tries the paper's sentences one by one, with several seeds each and
# a verdict. Two of them, on this run alone:
#
# *Neighbours* (section 6.1): of the six images nearest to an image, how many are of its class, by
# fc7 and by pixels?

# %%
asked = range(100)
for name, numbers in {"fc7": features, "pixels": images[:1000]}.items():
    near, _ = nearest(np.asarray(numbers), np.asarray(numbers[:100]), 7)
    same = [labels[i] == labels[q] for q in asked for i in near[q] if i != q]
    print(f"by {name:<7} {np.mean(same):.0%} of the neighbours are of the same class")

# %% [markdown]
# *Lesions* (a reader's question about Figure 3): what does each tower know? One is silenced, and
# the answers that have the wrong hue or the wrong pattern are counted.

# %%
kinds = [name.split("-", 1) for name in data.class_names]
hue, pattern = (np.unique(part, return_inverse=True)[1] for part in zip(*kinds))
for lesion in (None, 0, 1):
    whole = lesion is None
    said = (network if whole else silenced(network, lesion)).predict(images[:500]).argmax(1)
    name = "both towers" if whole else f"without tower {'AB'[lesion]}"
    hues, patterns = (np.mean(of[said] != of[labels[:500]]) for of in (hue, pattern))
    print(f"{name:<16} wrong hue {hues:.0%}, wrong pattern {patterns:.0%}")
