"""The beaten method: SIFT, Fisher vectors and a linear classifier, on the datasets of the claims.

    python -m experiments.fisher [--config=embedded_hard,fashion_mnist_small]

What the network was compared with in 2012 (Table 1 and 2: SIFT+FVs), as J. Sanchez and F. Perronnin
describe it (CVPR 2011): descriptors of patches on a grid at several sizes, SIFT of their brightness
and the mean and deviation of their colours, each by its principal components, a mixture of
Gaussians over them, the image as the gradient of its likelihood (Fisher vector, square roots of
its numbers, norm 1), and a support vector machine. OpenCV computes SIFT, scikit-learn the rest
(`pip install '.[claims]'`). A seed draws the patches and the mixture's start. The penalty is chosen
on images that were set aside from training, never on the test. Writes fisher.json, in which other
configurations stay as they are, and fisher.md, with the network's errors beside where they are in
experiments/results/claims.
"""

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from alexnet_jax import settings
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from experiments.claims.statistics import mean
from experiments.shared.command import (
    PUBLISHED,
    Flags,
    Results,
    add_fields,
    fields,
    listing,
    number,
    say,
    start,
)
from experiments.shared.machine import made_by
from experiments.shared.tables import listed, table

SIZES = (12, 16, 24)  # of patches, pixels at 64 to a side
STEP = 4  # pixels between them
COMPONENTS = 64  # of a descriptor that are kept
LEAST = 1e-4  # of the first component's variance that one has to have
GAUSSIANS = 32
SAMPLE = 60_000  # descriptors that the mixture is fitted to
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
ASIDE = 0.2  # of the training images, for the penalty
THEN = "2012: ILSVRC-2010"
CELLS = 4  # of a patch, a side, in the colour descriptor
AT_ONCE = 64  # images whose vectors are computed together


class Kind(NamedTuple):
    """A descriptor's projection, and the mixture over it."""

    components: Any
    mixture: Any


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and tests, for every configuration and seed."""
    arguments = parse(argv)
    check_installed()
    results = Results("claims", arguments, ("scikit-learn", "opencv-python-headless"))
    found = results.earlier("fisher.json")
    for name in arguments.config:
        config = settings.override(settings.load(name), fields(arguments))
        data = config.data
        cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
        splits = [
            (np.asarray(cache.images[split]), np.asarray(cache.labels[split]))
            for split in (data.train, data.test)
        ]
        runs = [run(*splits, seed) for seed in range(arguments.seeds)]
        found[" ".join([name, *fields(arguments)])] = results.made_by() | {
            "test_images": len(splits[1][1]),
            "runs": runs,
        }
        results.write("fisher.json", found)
    results.write_page("fisher.md", page(found))
    results.finish()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = Flags("fisher", __doc__)
    add = flags.add_argument
    add(
        "--config",
        type=listing(),
        default="embedded_hard,fashion_mnist_small",
        help="Whose images.",
    )
    add("--seeds", type=number(1), default=3, help="How often.")
    add_fields(flags)
    return flags.parse(argv)


def run(train: tuple[Any, Any], test: tuple[Any, Any], seed: int) -> dict[str, float]:
    """The error of one seed.

    Args:
        train: images, uint8 (N, S, S, 3), and labels.
        test: likewise.
        seed: of everything that is drawn.
    """
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    kinds = fitted(train[0], rng)
    vectors = [fisher_vectors(images, kinds) for images, _ in (train, test)]
    penalty = chosen(vectors[0], train[1], rng)
    said = machine(penalty).fit(vectors[0], train[1]).predict(vectors[1])
    error = float(np.mean(said != test[1]))
    say(f"seed {seed}: {error:.2%} wrong, penalty {penalty:g}")
    return {
        "seed": seed,
        "penalty": penalty,
        "top1_error": error,
        "seconds": round(time.perf_counter() - began, 1),
    }


def descriptors(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all patches of an image, (P, 128) and (P, 96) float32.

    SIFT's histograms of gradients, of norm 1 and rooted; the mean and deviation of each colour in
    4x4 cells. A patch without any gradient has no direction to speak of: zeros.
    """
    side = image.shape[0]
    wide = image.astype(np.float32) / 255
    squares = wide * wide
    points, colours = [], []
    for size, starts in grids(side):
        # OpenCV looks at 4 x 4 cells, each of one and a half times a keypoint's size.
        middles = starts + (size - 1) / 2
        points += [cv2.KeyPoint(x, y, size / 6, 0) for y in middles for x in middles]
        cell = max(1, size // CELLS)
        means, mean_squares = (cv2.blur(maps, (cell, cell)) for maps in (wide, squares))
        deviations = np.sqrt(np.maximum(mean_squares - means**2, 0))
        offsets = (np.arange(CELLS) - (CELLS - 1) / 2) * cell
        cells = np.clip(np.rint(middles[:, None] + offsets).astype(int), 0, side - 1)  # (G, C)
        rows, columns = cells[:, None, :, None], cells[None, :, None, :]
        parts = [maps[rows, columns].reshape(len(starts) ** 2, -1) for maps in (means, deviations)]
        colours.append(np.concatenate(parts, axis=1))
    _, found = cv2.SIFT_create().compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), points)
    found /= np.maximum(found.sum(axis=1, keepdims=True), 1e-6)
    return np.sqrt(found), np.concatenate(colours)


def grids(side: int) -> Iterator[tuple[int, np.ndarray]]:
    """The sizes of patches in an image, and where they start along either axis, in pixels."""
    scale = side / 64
    for size in (max(4, round(size * scale)) for size in SIZES):
        yield size, np.arange(0, side - size + 1, max(1, round(STEP * scale)))


def check_installed() -> None:
    """Raises a UserError if scikit-learn is missing: before the images are prepared."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("experiments.fisher needs scikit-learn: pip install '.[claims]'")


def fitted(images: np.ndarray, rng: np.random.Generator) -> list[Kind]:
    """Components and mixtures of both descriptors, of patches that are drawn."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    some = rng.permutation(len(images))[: max(1, SAMPLE // 100)]
    each = max(1, SAMPLE // len(some))
    drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index in some:
        for kept, found in zip(drawn, descriptors(images[index]), strict=True):
            kept.append(found[rng.permutation(len(found))[:each]])
    kinds = []
    for parts in drawn:
        whole = np.concatenate(parts).astype(np.float64)
        components = PCA(min(COMPONENTS, *whole.shape), random_state=int(rng.integers(2**31)))
        variances = components.fit(whole).explained_variance_
        # Where nothing varies, as the colours of grey images do not, there is nothing to describe.
        components.components_ = components.components_[variances > LEAST * variances[0]]
        mixture = GaussianMixture(
            GAUSSIANS, covariance_type="diag", max_iter=50, random_state=int(rng.integers(2**31))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 50 rounds will do
            kinds.append(Kind(components, mixture.fit(components.transform(whole))))
    return kinds


def fisher_vectors(images: np.ndarray, kinds: Sequence[Kind]) -> np.ndarray:
    """Each image as one vector, float32 (N, ...), a part of norm 1 for each kind of descriptor."""
    found = []
    for first in range(0, len(images), AT_ONCE):
        described = zip(*map(descriptors, images[first : first + AT_ONCE]), strict=True)
        parts = []
        for (components, mixture), each in zip(kinds, described, strict=True):
            points = components.transform(np.concatenate(each))
            vectors = gradient(points.reshape(len(each), -1, points.shape[1]), mixture)
            vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            parts.append(vectors / np.maximum(norms, 1e-12))
        found.append(np.concatenate(parts, axis=1).astype(np.float32))
    return np.concatenate(found)


def gradient(points: np.ndarray, mixture: Any) -> np.ndarray:
    """How the mean log-likelihood of points changes with a mixture's means and deviations, each
    over the root of its Fisher information (Sanchez and Perronnin, equations 16 and 17).

    Args:
        points: (N, P, D), P of each image.
        mixture: with `means_`, `covariances_` (K, D), `weights_` and `predict_proba`.

    Returns:
        (N, 2 K D)
    """
    images, count, size = points.shape
    shares = mixture.predict_proba(points.reshape(-1, size)).reshape(images, count, -1)
    deviations = np.sqrt(mixture.covariances_)
    zeroth = shares.mean(axis=1)[..., None]  # (N, K, 1)
    first, second = (shares.swapaxes(1, 2) @ x / count for x in (points, points**2))
    of_means = (first - zeroth * mixture.means_) / deviations
    squares = second - 2 * first * mixture.means_ + zeroth * mixture.means_**2
    of_deviations = squares / mixture.covariances_ - zeroth
    roots = np.sqrt(mixture.weights_)[:, None]
    parts = np.stack([of_means / roots, of_deviations / roots / 2**0.5], axis=1)
    return parts.reshape(images, -1)


def machine(penalty: float) -> Any:
    """A linear support vector machine, one against the rest."""
    from sklearn.svm import LinearSVC

    return LinearSVC(C=penalty, random_state=0)  # of the order in which it looks at images


def chosen(vectors: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> float:
    """The penalty with the least error on training images that are set aside."""
    order = rng.permutation(len(labels))
    aside, rest = np.split(order, [max(1, int(ASIDE * len(order)))])

    def errors() -> Iterator[float]:
        for penalty in PENALTIES:
            said = machine(penalty).fit(vectors[rest], labels[rest]).predict(vectors[aside])
            yield float(np.mean(said != labels[aside]))

    return PENALTIES[int(np.argmin(list(errors())))]


def page(found: dict[str, Any]) -> str:
    """The Markdown page."""
    rows = [
        [THEN, "SIFT, Fisher vectors, SVM", "45.7", ""],
        [THEN, "the network, ten views", "37.5", ""],
    ]
    made = []
    for name, result in found.items():
        errors = [100 * run["top1_error"] for run in result["runs"]]
        over_seeds = mean(errors)
        words = "{mean:.2f} ({low:.2f} to {high:.2f})".format(**over_seeds._asdict())
        if len(errors) < 2:
            words = f"{over_seeds.mean:.2f}"
        rows.append([name, "SIFT, Fisher vectors, SVM", words, str(len(errors))])
        made.append(made_by(result, ("scikit-learn", "opencv-python-headless")))
        network = of_network(name)
        if network is not None:
            words = "{mean:.2f} ({low:.2f} to {high:.2f})".format(**network["error"]["10"])
            rows.append([name, "the network, ten views", words, str(network["seeds"])])
    head = ("images", "method", "wrong, %", "seeds")
    return f"""# The beaten method

{table(head, rows, names=2)}

Means with their 95% intervals over seeds, beside what the paper has of ImageNet (Table 1, top-1).
These are small ones of their kind: {GAUSSIANS} Gaussians for each descriptor, patches of three
sizes, and no parts of the image told apart.

{listed(f"`{name}`: {how}" for name, how in zip(found, made, strict=True))}
"""


def of_network(config: str) -> dict[str, Any] | None:
    """What the claims found of the network as it is."""
    path = PUBLISHED / "claims" / "views.json"
    result = json.loads(path.read_text()).get(config) if path.is_file() else None
    if result is None:
        return None
    return {**result["arms"]["the network"], "seeds": len(result["seeds"])}


if __name__ == "__main__":
    start(main)
