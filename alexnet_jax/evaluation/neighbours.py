"""The images that are nearest to an image by what a layer says of them (paper section 6.1)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax.evaluation.trained_network import AT_ONCE, TrainedNetwork

BLOCK = 32_000_000  # bytes of float64 features that are compared at a time


def nearest(
    features: "np.ndarray | OfImages", queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are nearest to each query by Euclidean distance, in float64.

    Reads the features a block at a time, so that they may be memory-mapped.

    Args:
        features: (N, ...).
        queries: (Q, ...), of the same shape behind the first axis.
        count: how many; all N if there are fewer.

    Returns:
        Row numbers (Q, count) int64, nearest first, of equals the first; distances (Q, count).

    Raises:
        ValueError: the shapes do not fit.
    """
    if features.shape[1:] != queries.shape[1:]:
        raise ValueError(f"features {features.shape[1:]}, but queries {queries.shape[1:]}")
    asked = np.asarray(queries, np.float64).reshape(len(queries), -1)
    found = np.zeros((len(asked), 0), np.int64)
    squares = np.zeros((len(asked), 0))
    at_once = max(1, BLOCK // (8 * asked.shape[1]))
    for start in range(0, len(features), at_once):
        block = np.asarray(features[start : start + at_once], np.float64)
        block = block.reshape(len(block), -1)
        # The difference itself: |a|² + |b|² - 2ab would lose the digits of near neighbours.
        here = np.stack([np.square(block - query).sum(1) for query in asked])
        numbers = np.broadcast_to(np.arange(start, start + len(block)), here.shape)
        found, squares = np.hstack([found, numbers]), np.hstack([squares, here])
        order = np.argsort(squares, axis=1, kind="stable")[:, :count]
        found = np.take_along_axis(found, order, axis=1)
        squares = np.take_along_axis(squares, order, axis=1)
    return found, np.sqrt(squares)


class OfImages:
    """Looks like the array (N, ...) of what a stage says of images, in one view; computes what is
    asked for, so that no more than that is in memory."""

    def __init__(
        self, network: TrainedNetwork, stage: str, images: Any, done: Callable[[int], Any]
    ) -> None:
        """Args:
        network: which looks at them.
        stage: of the network, see `TrainedNetwork.stage`.
        images: (N, S, S, 3) uint8, or what looks like such an array; not empty.
        done: is told how many images were looked at.
        """
        self._network, self._stage, self._images, self._done = network, stage, images, done
        self.shape = (len(images), *self._look(np.asarray(images[:1])).shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | list[int]) -> np.ndarray:
        some = self._images[key] if isinstance(key, slice) else [self._images[i] for i in key]
        found = self._look(np.asarray(some))
        self._done(len(found))
        return found

    def _look(self, images: np.ndarray) -> np.ndarray:
        return self._network.look([self._stage], images, batch_size=AT_ONCE)[self._stage]
