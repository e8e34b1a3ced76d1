"""What trained networks say of the test images."""

from collections.abc import Sequence

import numpy as np

import alexnet_jax
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from experiments.claims.claim import Run


def network(run: Run) -> TrainedNetwork:
    """The network of a run."""
    return alexnet_jax.load(run.workdir)


def images(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, S, S, 3), and labels, (N,).

    Args:
        run: whose they are.
        split: 'train' or 'test', whatever the dataset calls it.
    """
    data = network(run).config.data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    return cache.images[data[split]], np.asarray(cache.labels[data[split]])


def loss(run: Run, split: str) -> float:
    """The mean cross-entropy of a network at test, in one view, in nats.

    Args:
        run: whose network it is.
        split: 'train' or 'test', as for `images`.
    """
    asked, labels = images(run, split)
    said = network(run).predict(asked, batch_size=128)
    return -float(np.log(said[np.arange(len(labels)), labels] + 1e-12).mean())


def wrong(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The top-1 error in percent."""
    return 100 * float(np.mean(probabilities.argmax(axis=1) != labels))


def probabilities(runs: Sequence[Run]) -> list[np.ndarray]:
    """Of each run, in ten views of the test images, (N, classes)."""
    asked, _ = images(runs[0], "test")
    return [network(run).predict(asked, ten_views=True, batch_size=128) for run in runs]
