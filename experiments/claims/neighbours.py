"""Are the nearest images by the last hidden layer of the same kind (section 6.1, Figure 4)?

The paper shows five test images, each with the six training images whose features in the last
hidden layer are nearest, and says that in pixels these are generally not close. Here it is counted:
of the six nearest training images of a test image, how many have its class, by the features and by
the pixels of the central view.
"""

import numpy as np

from alexnet_jax.evaluation.neighbours import nearest
from experiments.claims import answers
from experiments.claims.claim import Claim, Comparison, Runs, unchanged

QUERIES = 320  # test images, the first; of `embedded_hard` 11 to 22 of each class
NEAREST = 6


def share(asked: np.ndarray, labels: np.ndarray, among: np.ndarray, theirs: np.ndarray) -> float:
    """Of the images nearest to those asked about, how many have their class, in percent.

    Args:
        asked: (Q, ...).
        labels: (Q,)
        among: (N, ...), of the same shape behind the first axis.
        theirs: (N,)
    """
    found, _ = nearest(among, asked, NEAREST)
    return 100 * float(np.mean(theirs[found] == labels[:, None]))


def compare(runs: Runs) -> list[Comparison]:
    """By the features against by the pixels."""
    (every,) = runs.values()
    images, labels = answers.images(every[0], "test")
    images, labels = images[:QUERIES], labels[:QUERIES]
    among, theirs = answers.images(every[0], "train")
    network = answers.network(every[0])
    size, crop = network.size, network.viewer.crop
    inside = slice((size - crop) // 2, (size + crop) // 2)
    by_pixels = share(images[:, inside, inside], labels, among[:, inside, inside], theirs)
    by_features = []
    for run in every:
        network = answers.network(run)
        features = [network.features(some, "fc7") for some in (images, among)]
        by_features.append(share(features[0], labels, features[1], theirs))
    what = f"of {NEAREST} nearest, of the same class: by fc7, not by pixels"
    return [Comparison(what, "%", [by_pixels] * len(every), by_features, 1, 10.0)]


CLAIM = Claim(
    name="neighbours",
    section="6.1, Figure 4",
    sentence="Images whose features are near are of the same kind, more than those near in pixels",
    in_2012="shown, not counted: five test images with their six nearest training images",
    arms={"the network": unchanged},
    compare=compare,
    caveat="the pixels are the same in all seeds, and so are the images that are asked about",
    weights=True,
)
