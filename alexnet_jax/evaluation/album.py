"""The images of a run's own dataset that are nearest to a photo (paper section 6.1, Figure 4)."""

from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import is_at_hand
from alexnet_jax.evaluation.features import AT_ONCE, open_dataset
from alexnet_jax.evaluation.neighbours import nearest
from alexnet_jax.evaluation.trained_network import TrainedNetwork

MOST = 2000  # images that a photo is compared with
NEAREST = 6


class Neighbour(NamedTuple):
    """An image (S, S, 3) uint8, the words of its class, and its Euclidean distance."""

    picture: np.ndarray
    name: str
    distance: float


class Album:
    """Images from all over a split, by what the last hidden layer says of them.

    Attributes:
        split: its name.
        source: the dataset.
        numbers: of the images in the split.
        layer: whose features are compared, fc7 in the network of 2012.
    """

    def __init__(self, network: TrainedNetwork, cache: Cache, split: str) -> None:
        """Looks at nothing yet."""
        self._network, self._images, self._labels = (
            network,
            cache.images[split],
            cache.labels[split],
        )
        self.split, self.source = split, cache.name
        spread = np.linspace(0, len(self._images) - 1, min(MOST, len(self._images)))
        self.numbers = spread.round().astype(int)
        net = network.viewer.model.network
        self.layer = [*net.convolutions(), *net.hidden()][-1]
        self._features: np.ndarray | None = None

    def picture(self, number: int) -> np.ndarray:
        """An image of the split, (S, S, 3)."""
        return np.asarray(self._images[number])

    def some(self, count: int) -> list[int]:
        """The numbers of a few images from all over the split."""
        total = len(self.numbers)
        count = min(count, total)
        return [int(self.numbers[(2 * one + 1) * total // (2 * count)]) for one in range(count)]

    def nearest(self, image: Any) -> list[Neighbour]:
        """The nearest to an image, nearest first; all are looked at when it is first asked.

        Args:
            image: one, see `TrainedNetwork.pictures`.
        """
        if self._features is None:
            starts = range(0, len(self.numbers), AT_ONCE)
            some = (self._images[self.numbers[start : start + AT_ONCE]] for start in starts)
            self._features = np.concatenate([self._look(of) for of in some])
        (rows,), (distances,) = nearest(self._features, self._look(image), NEAREST)
        numbers = self.numbers[rows]
        return [
            Neighbour(self.picture(n), self._network.classes[int(self._labels[n])], float(distance))
            for n, distance in zip(numbers, distances, strict=True)
        ]

    def _look(self, images: Any) -> np.ndarray:
        stage = self._network.stage(self.layer)
        return self._network.look([stage], images, batch_size=AT_ONCE)[stage]


def album(network: TrainedNetwork) -> Album | None:
    """The test split of a run's dataset, or the validation's; None where it is not at hand.

    Raises:
        UserError: it is there and cannot be used, such as one that has other classes by now.
    """
    data = network.config.data
    if not is_at_hand(data.source, data.size, data.dir, data.holdout, data.cache):
        return None
    cache = open_dataset(network)
    splits = [split for split in (data.test, data.validation) if len(cache.images.get(split, ()))]
    return Album(network, cache, splits[0]) if splits else None
