"""What all ways are given: parameters, images and labels, the same in every process."""

import numpy as np

from alexnet_jax.model import Network
from experiments.step.contender import Arrays, Params
from experiments.step.work import convolutions, denses

SEED = 2012


def parameters(network: Network) -> Params:
    """Draws float32 parameters with the distribution of the initial values."""
    rng = np.random.default_rng(SEED)
    params: Params = {}

    def add(name: str, shape: tuple[int, ...], std: float, bias: float) -> None:
        kernel = rng.standard_normal(shape, np.float32)
        kernel *= std
        params[name] = {"kernel": kernel, "bias": np.full(shape[-1], bias, np.float32)}

    for conv in convolutions(network):
        add(conv.name, conv.kernel, conv.layer.std, conv.layer.bias)
    for name, shape in denses(network).items():
        dense = network.hidden().get(name)
        std, bias = (dense.std, dense.bias) if dense else (network.fc8_std, network.fc8_bias)
        add(name, shape, std, bias)
    return params


def batch(network: Network, count: int) -> Arrays:
    """Makes 'image', uint8 (N, S, S, 3), of coarse and fine structure, and 'label', int32 (N,)."""
    rng = np.random.default_rng(SEED)
    size = network.input_size
    side = -(-size // 8)
    coarse = rng.integers(0, 206, (count, side, side, 3), np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    images = images + rng.integers(0, 50, images.shape, np.uint8)
    labels = rng.integers(0, network.classes, count, np.int32)
    return {"image": images, "label": labels}


def mean_image(network: Network) -> np.ndarray:
    """Makes a mean image, float32 (S, S, 3)."""
    size = network.input_size
    return np.random.default_rng(SEED).uniform(110, 140, (size, size, 3)).astype(np.float32)


def pixels(network: Network, count: int) -> np.ndarray:
    """Makes the network's input, float32 (N, S, S, 3): the images of `batch` minus the mean."""
    return batch(network, count)["image"] - mean_image(network)
