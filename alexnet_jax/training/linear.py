"""A linear classifier on what the last layer but one says: the quick alternative to fine-tuning.

Every image is looked at once, in the central view, and scikit-learn fits a logistic regression to
what the network says of the training images; how strongly it is held back is chosen by
cross-validation on these alone. What comes of it is a network again: fc8 is the classifier, and all
before is as it was.
"""

import shlex
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import load, settings
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.scores import interval
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange import converting
from alexnet_jax.run.metrics import read_rows
from alexnet_jax.settings.places import without_folder

AT_ONCE = 256  # images whose pixels are in memory
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # scikit-learn's C, of features whose mean norm is 1
USUAL = 10.0  # where some class has too few images to choose by
FOLDS = 3


class Classifier(NamedTuple):
    """A logistic regression, as a layer.

    Attributes:
        kernel: (D, classes) float32.
        bias: (classes,) float32.
        strength: which was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def error(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The share of images, (N, D), whose label, (N,), is not the most probable class."""
        return float(np.mean((features @ self.kernel + self.bias).argmax(1) != labels))


def train(config: ConfigDict, out: Path | None = None, run: Path | None = None) -> Classifier:
    """Fits a classifier to the images of a fine-tuning, says how it does, and writes a network.

    Args:
        config: of the fine-tuning; `init_from` names the network.
        out: the directory to write, like that of a run; must not be there, or be empty.
        run: the directory of the fine-tuning, if it has been, whose error is said beside.

    Raises:
        UserError: network or images are not there, or do not fit each other.
    """
    if out is not None:
        converting.check_out(out)
    data = config.data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    network = load(config.init_from)
    layer = last_stage(network)
    features = {split: look(network, layer, cache, split) for split in (data.train, data.test)}
    labels = {split: np.asarray(cache.labels[split]) for split in features}
    found = fit(features[data.train], labels[data.train], cache.class_names)
    images, numbers = features[data.train].shape
    print(f"{layer} of {config.init_from}: {numbers:,} numbers of each image")
    print(f"{images:,} training images; the test ({data.test}) has {len(features[data.test]):,}")
    error = found.error(features[data.test], labels[data.test])
    print(f"linear classifier: {_shown(error, len(labels[data.test]))}")
    rows = [] if run is None else read_rows(run / "metrics.jsonl")
    tested = [row for row in rows if (row["split"], row["views"]) == ("test", 1)]
    if run is not None and tested:
        print(f"fine-tuned, {run}: {_shown(tested[-1]['top1_error'], tested[-1]['examples'])}")
    if out is not None:
        write(out, config, network, found, cache, layer)
        print(f"\nIn {out}: the network with that as its fc8. Next:\n")
        print(f"    python -m alexnet_jax.predict {shlex.quote(f'--workdir={out}')} photo.jpg")
    return found


def _shown(error: float, images: int) -> str:
    low, high = interval(error, images)
    return f"top-1 error {error:.2%} in one view (95%: {low:.2%} to {high:.2%})"


def last_stage(network: TrainedNetwork) -> str:
    """What goes into fc8, as `TrainedNetwork.features` names it."""
    *_, (name, layer) = network.viewer.model.network.layers().items()
    return f"{name}/{(['sum', *layer.after.split()])[-1]}"


def look(network: TrainedNetwork, layer: str, cache: Cache, split: str) -> np.ndarray:
    """What a layer says of the images of a split, (N, D) float32."""
    images = cache.images[split]
    if not len(images):
        raise UserError(f"{cache.name} has no images of the split {split!r}")
    parts = [
        network.features(np.asarray(images[start : start + AT_ONCE]), layer)
        for start in range(0, len(images), AT_ONCE)
    ]
    return np.concatenate([part.reshape(len(part), -1) for part in parts])


def fit(features: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> Classifier:
    """The logistic regression.

    Args:
        features: (N, D).
        labels: (N,) integers.
        class_names: what they mean.

    Raises:
        UserError: a class has no image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from threadpoolctl import threadpool_limits

    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        raise UserError(f"there is no training image of {class_names[int(counts.argmin())]}")
    scale = 1 / max(1e-30, float(np.linalg.norm(features, axis=1).mean()))
    regression = LogisticRegression(C=USUAL, max_iter=1000)
    folds = min(FOLDS, int(counts.min()))
    with threadpool_limits(1):  # small products: threads would wait for each other, for minutes
        if folds > 1:
            search = GridSearchCV(regression, {"C": STRENGTHS}, cv=folds)
            regression = search.fit(features * scale, labels).best_estimator_
        else:
            regression.fit(features * scale, labels)
    kernel, bias = regression.coef_.T * scale, regression.intercept_
    if len(class_names) == 2:  # which has one column, of the second class against the first
        kernel, bias = np.hstack([0 * kernel, kernel]), np.append(0 * bias, bias)
    return Classifier(kernel.astype(np.float32), bias.astype(np.float32), float(regression.C))


def write(
    out: Path,
    config: ConfigDict,
    network: TrainedNetwork,
    classifier: Classifier,
    cache: Cache,
    layer: str,
) -> None:
    """Writes the network with the classifier in the place of its fc8, as `convert` writes one."""
    config = settings.absolute(config)
    config.model = network.config.model.copy_and_resolve_references()
    config.model.classes = len(cache.class_names)
    config.data.mean, config.data.size = network.config.data.mean, network.size
    variables = jax.tree.map(np.asarray, network.variables)
    fc8 = {"kernel": classifier.kernel, "bias": classifier.bias}
    name = Path(config.init_from).name
    made = {
        "file": config.init_from,
        "format": f"a linear classifier on {layer}",
        "origin": f"A linear classifier on {layer} of another network, `{name}`, fitted to "
        f"{len(cache.images[config.data.train]):,} images of "
        f"`{without_folder(config.data.source)}`.",
        "images": cache.fingerprint,
        "strength": classifier.strength,
        "classes": len(cache.class_names),
    }
    converting.write(
        out,
        config,
        {**variables, "params": {**variables["params"], "fc8": fc8}},
        np.asarray(network.viewer.mean_image),
        cache.class_names,
        made,
    )
