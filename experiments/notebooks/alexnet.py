# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The AlexNet paper, run
#
# Eight layers in two towers, trained, tested, asked and looked into: Krizhevsky, Sutskever and
# Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, 2012. Two minutes on
# two cores, and one more the first time, when the dataset is drawn. On Colab choose a GPU or a TPU
# first; nothing below changes.
#
# The network has a quarter of AlexNet's widths. Section numbers are the paper's.

# %%
import tempfile
from pathlib import Path

try:
    import alexnet_jax
except ModuleNotFoundError:  # a fresh Colab: the notebook's folder is experiments/notebooks
    # %pip install -q -e ../..
    import alexnet_jax

import jax
import numpy as np
from IPython.display import Image, Markdown, display

from alexnet_jax import build, config, describe, figures, panels, predict, train
from alexnet_jax.data.cache import ensure_cache

workdir = Path(tempfile.mkdtemp()) / "alexnet"

# %% [markdown]
# ## Section 3.2: two towers
#
# On a CPU two virtual devices stand for the two GPUs of 2012; on a single GPU or TPU both towers
# share it, and more devices become a `(data, tower)` mesh.

# %%
run = config.override(config.load("embedded"), ["epochs=2", "keep_checkpoints=1"])
build.start_devices(run)
print(jax.devices())

# %% [markdown]
# ## Section 3: the network
#
# The full one, layer by layer. 60 million parameters; layers 2, 4 and 5 see only their own tower.

# %%
Markdown(describe.table(alexnet_jax.Network()))

# %% [markdown]
# ## Section 5: training
#
# A configuration holds every number. Two of the eight epochs are enough for pictures.

# %%
scores = train.train(run, workdir)

# %% [markdown]
# ## Section 6.1: what the towers have learned
#
# Figure 3: the kernels of the first layer, tower by tower. The share of colour is that of a
# kernel's squared weights off the grey axis: the paper saw one tower "largely color-agnostic" and
# the other "largely color-specific".

# %%
figures.draw([workdir], workdir / "figures")
display(Image(workdir / "figures" / "conv1.png"))

# %%
display(Image(workdir / "figures" / "curves.png"))

# %% [markdown]
# ## Figure 4, left: eight test images and what the network says

# %%
network = alexnet_jax.load(workdir)
data = ensure_cache(run.data.source, run.data.size, run.data.dir)
images, labels = data.images["test"], data.labels["test"]

drawn = [
    panels.Prediction(
        images[i], predict.top(probabilities, network.classes), network.classes[labels[i]]
    )
    for i, probabilities in enumerate(network.predict(images[:8]))
]
panels.draw_predictions(drawn, workdir / "predictions.jpg")
display(Image(workdir / "predictions.jpg"))

# %% [markdown]
# ## Figure 4, right: neighbours in the last hidden layer
#
# The Euclidean distance between the activations of fc7. The pictures can differ in every pixel.

# %%
features = network.features(images[:1000], "fc7")
found, distances = panels.nearest(features, features[:3], 7)


def shown(i: int) -> panels.Shown:
    return panels.Shown(images[i], network.classes[labels[i]], labels[i])


rows = [  # the nearest to an image is itself
    panels.Neighbours(shown(q), [(shown(i), far) for i, far in zip(found[q], distances[q])][1:])
    for q in range(3)
]
panels.draw_neighbours(rows, workdir / "neighbours.jpg")
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
