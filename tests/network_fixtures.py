"""Small networks, their parameters and images for the tests, and the one measure of an error."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.model import AlexNet, Conv, Dense, Network

Tree = Any


def small_network(**changes: Any) -> Network:
    """A network of 8-16-24-24-16 kernels on 96 pixels.

    At 96, as at 224, conv1 reads all three rows of zeros and nothing is left over: 23-11-5-2.
    Initial weights are large enough for the LRN to matter and for no gradient to vanish.
    """
    layers = {
        "conv1": Conv(8, 11, 4, (0, 3), std=0.05, after="activation norm pool"),
        "conv2": Conv(16, 5, 1, (2, 2), std=0.05, bias=1.0, after="activation norm pool"),
        "conv3": Conv(24, 3, 1, (1, 1), communicates=True, std=0.08),
        "conv4": Conv(24, 3, 1, (1, 1), std=0.1, bias=1.0),
        "conv5": Conv(16, 3, 1, (1, 1), std=0.1, bias=1.0, after="activation pool"),
        "fc6": Dense(32, std=0.12),
        "fc7": Dense(32, std=0.2),
    }
    return Network(**{"classes": 12, "input_size": 96, "fc8_std": 0.05, **layers, **changes})


def small_config(
    *assignments: str, network: Network | None = None, preset: str = "reconciled"
) -> ConfigDict:
    """A preset with a small network; `assignments` as after `--config.`"""
    config = base.get_config(preset)
    config.model = ConfigDict(dataclasses.asdict(network or small_network()))
    return settings.override(config, assignments)


def apart(network: Network, *names: str) -> Network:
    """The network with layers that see their own tower alone."""
    layers = {name: getattr(network, name) for name in names}
    return dataclasses.replace(
        network, **{k: dataclasses.replace(v, communicates=False) for k, v in layers.items()}
    )


def dropout_over_conv4(network: Network) -> Network:
    """The network as 2012's #177 changed it."""
    conv = dataclasses.replace(network.conv4, after="activation dropout")
    return dataclasses.replace(network, conv4=conv)


def random_params(network: Network, seed: int = 0) -> Tree:
    """Float64 parameters with the network's standard deviations; biases spread as well."""
    rng = np.random.default_rng(seed)
    size = network.input_size
    shapes = jax.eval_shape(
        AlexNet(network).init, jax.random.key(0), jnp.zeros((1, size, size, 3))
    )["params"]
    fc8 = Dense(network.classes, network.fc8_std, network.fc8_bias)
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, layer in (network.layers() | {"fc8": fc8}).items():
        kernel = rng.normal(0, layer.std, shapes[name]["kernel"].shape)
        bias = rng.normal(layer.bias, 0.2, shapes[name]["bias"].shape)
        params[name] = {"kernel": kernel, "bias": bias}
        for kind in sorted(shapes[name].keys() - params[name].keys()):  # of batch norm
            params[name][kind] = rng.normal(kind == "scale", 0.2, kernel.shape[-1])
    return params


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Float64 images on the scale of pixels minus their mean, each coarse and fine structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 60, (count, -(-size // 8), -(-size // 8), 3))
    coarse = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    return coarse + rng.normal(0, 20, (count, size, size, 3))


def random_labels(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """Integers below `classes`."""
    return np.random.default_rng(seed).integers(0, classes, count)


def random_masks(network: Network, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Which units stay in fc6 and fc7, and before them where dropout is: arrays of bools."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {n: (d.width,) for n, d in network.hidden().items()}
    for name, conv in network.convolutions().items():
        if "dropout" in conv.after.split():
            shapes[name] = (*[network.sides()[name][1]] * 2, conv.width)
    return {name: rng.random((count, *shape)) < 0.5 for name, shape in shapes.items()}


def difference(found: Tree, expected: Tree) -> float:
    """How far two trees of arrays are apart, as every test here measures it.

    Tensor by tensor the largest absolute difference over the largest absolute value; of the tensors
    the worst. A number that is not finite is an infinite difference.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
        here = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-300))
        worst = max(worst, here if math.isfinite(here) else math.inf)
    return worst


class FullSize(NamedTuple):
    """The network of 2012 with its initial weights, and one training step's worth of numbers.

    All of them float64; `params` are the float32 values that a run starts from.
    """

    network: Network
    params: Any
    images: np.ndarray
    labels: np.ndarray
    masks: dict[str, np.ndarray]
    logits: jax.Array  # in training, with the masks
    loss: jax.Array
    gradients: Any


def gradient_function(model: AlexNet) -> Any:
    """((loss, logits), gradients) of (params, images, labels, masks)."""

    def loss(params: Any, images: Any, labels: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, images, masks)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    return jax.value_and_grad(loss, has_aux=True)
