"""Several networks as one (paper section 6, Table 2): `--mode=evaluate --ensemble=W2,W3`.

"Averaging the predictions of five similar CNNs gives an error rate of 16.4%", where one has 18.2%.
Here ways to combine networks are tested side by side: on the same images, in the same pass.

    mean of probabilities   over views and networks, as in 2012
    geometric mean          of the probabilities, of sum 1 again: the softmax of the mean logits
    searched weights        of the networks' probabilities, found on the images with even numbers,
                            tested on those with odd ones, beside the plain mean on the same
    mean parameters         one network, of the average of the checkpoints of one run, or of the
                            runs where their networks are the same

The 2012 code searches weights as well (`avg-valid.py:49-98`), on the images that it then reports.
Images stream through: all that is kept is what each network says of each image's label.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import trained_network
from alexnet_jax.evaluation.evaluator import Batch, batches, check_classes, progress
from alexnet_jax.evaluation.scores import Score, Tally, interval, score_table
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.evaluation.viewer import Viewer
from alexnet_jax.files import whole
from alexnet_jax.model import make_mesh
from alexnet_jax.model.mesh import describe_mesh
from alexnet_jax.run import hosts
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.run.devices import enough_memory
from alexnet_jax.run.parts import build

Tree = Any

PROBABILITIES = "mean of probabilities"
LOGITS = "mean of logits = geometric mean"
PROBABILITIES_ODD = "odd images: mean of probabilities"
SEARCHED_ODD = "odd images: searched weights"
MEAN_PARAMETERS = "mean parameters"


class Member(NamedTuple):
    """A network that takes part."""

    name: str
    viewer: Viewer
    variables: Tree


class Found(NamedTuple):
    """What the test of an ensemble finds."""

    scores: dict[str, list[Score]]  # of each way, in one view and in ten
    weights: dict[int, np.ndarray]  # by the number of views: the searched weights, (networks,)


class Ensemble:
    """Networks on one mesh, ready to be tested alone and together."""

    def __init__(
        self, members: Sequence[Member], batch_size: int, others: Sequence[Member] = ()
    ) -> None:
        """Args:
        members: are combined, and tested alone as well. They have the same classes and the same
            size of images, and may differ in all else.
        batch_size: images at a time over all devices; rounded up to a multiple of the data axis.
        others: are only tested alone, on the way.
        """
        self.members, self.others = list(members), list(others)
        self.batch_size = batch_size

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> Found:
        """Tests every way on all images, each of which is looked at once.

        Args:
            images: (N, S, S, 3) uint8, two or more.
            labels: (N,) integers.
        """
        tally = Tally()
        weights: dict[int, np.ndarray] = {}
        with progress(len(images)) as bar:
            given: dict[int, list[np.ndarray]] = {}
            for batch in self._batches(Half(images, 0), Half(labels, 0), bar):
                for count, alone, logits in self._views(batch["image"]):
                    self._add(tally, count, alone, logits, batch)
                    real = hosts.whole(batch["weight"]) > 0
                    to_labels = hosts.whole(_given(alone[: len(self.members)], batch["label"]))
                    given.setdefault(count, []).append(to_labels[real])
            for count, parts in given.items():
                weights[count] = mixture_weights(np.concatenate(parts))
            for batch in self._batches(Half(images, 1), Half(labels, 1), bar):
                for count, alone, logits in self._views(batch["image"]):
                    mean = self._add(tally, count, alone, logits, batch)
                    tally.add(PROBABILITIES_ODD, count, mean, batch)
                    mixture = _mixture(alone[: len(self.members)], weights[count])
                    tally.add(SEARCHED_ODD, count, mixture, batch)
        scores = tally.scores()
        names = [member.name for member in self.members]
        names += [PROBABILITIES, LOGITS, PROBABILITIES_ODD, SEARCHED_ODD]
        names += [member.name for member in self.others]
        return Found({name: scores[name] for name in names}, weights)

    def _batches(self, images: Any, labels: Any, bar: Any) -> Iterator[Batch]:
        return batches(images, labels, self.batch_size, self.members[0].viewer.sharding, bar)

    def _views(self, images: jax.Array) -> Iterator[tuple[int, jax.Array, jax.Array]]:
        """Yields after one view, and after all: their number, the probabilities of each network,
        (members and others, N, classes), and the mean logits of the members, (N, classes)."""
        every = [
            viewer.means(variables, images, viewer.views)
            for _, viewer, variables in [*self.members, *self.others]
        ]
        last = len(self.members[0].viewer.views)
        for count, means in enumerate(zip(*every, strict=True), 1):
            if count in (1, last):
                alone = jnp.stack([mean.probabilities for mean in means])
                logits = jnp.stack([mean.logits for mean in means[: len(self.members)]])
                yield count, alone, logits.mean(axis=0)

    def _add(
        self, tally: Tally, count: int, alone: jax.Array, logits: jax.Array, batch: Batch
    ) -> jax.Array:
        """Counts what needs no weights; the mean of the probabilities."""
        for place, member in enumerate([*self.members, *self.others]):
            tally.add(member.name, count, alone[place], batch)  # jax iterates over no array of many
        members = len(self.members)
        mean = _mixture(alone[:members], np.full(members, 1 / members))
        tally.add(PROBABILITIES, count, mean, batch)
        tally.add(LOGITS, count, jax.nn.softmax(logits), batch)
        return mean


class Half:
    """Every second image, or label, of a split. The classes of a split may come one after the
    other, so its first half would not do."""

    def __init__(self, whole: Any, first: int) -> None:
        """Args:
        whole: an array, or what looks like one.
        first: 0 for the even ones, 1 for the odd.
        """
        self._whole, self._first = whole, first
        self.shape = (len(range(first, len(whole), 2)), *whole.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop = (self._first + 2 * place for place in (rows.start, rows.stop))
        found: np.ndarray = self._whole[start:stop:2]
        return found


@jax.jit
def _given(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """What each network, (K, N, classes), gives to the label: (N, K)."""
    return jnp.take_along_axis(probabilities, labels[None, :, None], axis=2)[..., 0].T


@jax.jit
def _mixture(probabilities: jax.Array, weights: jax.Array) -> jax.Array:
    """(N, classes) of the networks' (K, N, classes) and their weights (K,)."""
    return jnp.sum(jnp.asarray(weights, jnp.float32)[:, None, None] * probabilities, axis=0)


def mixture_weights(given: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """The weights of a mixture of networks under which the labels are most likely.

    Expectation maximisation from equal weights. The log-likelihood is concave, so that the largest
    of its slopes, less one, bounds what is still to be gained, and says when to stop.

    Args:
        given: (N, networks), the probability that each network gives to each image's label.
        tolerance: of the mean log-likelihood, in nats.

    Returns:
        (networks,) float64, not negative, of sum 1.
    """
    # As in `scores.sums`: nothing, or no number, is not the end of the average.
    given = np.fmax(np.asarray(given, np.float64), np.finfo(np.float32).tiny)
    weights = np.full(given.shape[1], 1 / given.shape[1])
    for _ in range(10_000):
        slopes = (given / (given @ weights)[:, None]).mean(axis=0)
        if slopes.max() - 1 < tolerance:
            break
        weights = weights * slopes
    return np.asarray(weights / weights.sum())


def evaluate_ensemble(
    config: ConfigDict, workdirs: Sequence[str | Path], *, best: bool = False
) -> Found:
    """Tests several runs, alone and together, and prints and writes a table of it.

    Args:
        config: of the first run, whose test split and batch size are used, on its mesh.
        workdirs: of the runs. In the first, `ensemble.json` is written.
        best: the checkpoints with the lowest validation error instead of the last.

    Raises:
        UserError: a run is not there, or does not fit the dataset.
    """
    places = [Path(workdir).expanduser() for workdir in workdirs]
    configs = _compatible(config, places)
    cache, mesh, _ = build(config)
    if mesh.shape["tower"] > min(c.model.towers for c in configs):
        mesh = make_mesh(config.mesh.data, 1)  # a network of one tower does not spread over two
    split = config.data.test
    images, labels = cache.images[split], cache.labels[split]
    if len(images) < 2:
        raise UserError(f"--config.data.test={split}: one image does not divide into two halves")
    runs = []
    for workdir in places:
        runs.append(trained_network.load(workdir, best=best, mesh=mesh))
        check_classes(workdir, runs[-1].class_names, cache)
    print(
        f"{len(images):,} images of the split {split!r} of {cache.name}, mesh of "
        f"{describe_mesh(mesh)}, float32 products",
        flush=True,
    )
    for number, run in enumerate(runs, 1):
        print(f"network {number}: step {run.step:,} of {run.name}", flush=True)
    _share_viewers(runs)
    members = [Member(f"network {i}", r.viewer, r.variables) for i, r in enumerate(runs, 1)]
    with enough_memory(config, "eval_batch_size"):
        ensemble = Ensemble(members, config.eval_batch_size, averaged(runs))
        found = ensemble(images, labels)
    print(f"\n{score_table(found.scores)}\n")
    print(notes(found, len(images), len(cache.class_names)))
    path = places[0] / "ensemble.json"
    with hosts.together():
        if hosts.first():
            text = json.dumps(as_json(found, runs, cache, split), indent=2) + "\n"
            with whole(path, replace=True) as file:
                file.write(text.encode())
    print(f"written to {path}")
    return found


def _compatible(config: ConfigDict, workdirs: Sequence[Path]) -> list[ConfigDict]:
    """The configurations of all runs.

    Raises:
        ConfigError: one is named twice, is not there, or looks at images of another size.
    """
    configs = [config, *(settings.read(w / "config.json") for w in workdirs[1:])]
    known: set[Path] = set()
    for workdir, other in zip(workdirs, configs, strict=True):
        if workdir.resolve() in known:
            raise settings.ConfigError(
                f"--ensemble: {workdir} is named twice; name each run once, the first by --workdir"
            )
        known.add(workdir.resolve())
        for field, theirs, ours in (
            ("data.size", other.data.size, config.data.size),
            ("model.classes", other.model.classes, config.model.classes),
        ):
            if theirs != ours:
                raise settings.ConfigError(
                    f"--ensemble: {workdir} has {field}={theirs}, {workdirs[0]} has {ours}; "
                    "networks that are combined share the images and the classes"
                )
    return configs


def _share_viewers(runs: Sequence[TrainedNetwork]) -> None:
    """Compiles networks once that differ in their parameters alone."""
    for number, run in enumerate(runs):
        for other in runs[:number]:
            ours, theirs = run.viewer, other.viewer
            if (ours.model.network, ours.aligned) == (theirs.model.network, theirs.aligned) and (
                np.array_equal(ours.mean_image, theirs.mean_image)
            ):
                run.viewer = theirs
                break


def averaged(runs: Sequence[TrainedNetwork]) -> list[Member]:
    """The networks of mean parameters: of the first run's checkpoints, and of all runs."""
    first = runs[0]
    found = []
    checkpoints = kept_variables(first)
    if len(checkpoints) > 1:
        name = f"network 1, mean of {len(checkpoints)} checkpoints"
        found.append(Member(name, first.viewer, mean_variables(checkpoints)))
    if len(runs) > 1 and all(run.viewer is first.viewer for run in runs):  # one mean image, too
        name = f"networks 1 to {len(runs)}, {MEAN_PARAMETERS}"
        every = [run.variables for run in runs]
        found.append(Member(name, first.viewer, mean_variables(every)))
    return found


def kept_variables(run: TrainedNetwork) -> list[Tree]:
    """The variables of every sound checkpoint that a run still has."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), run.variables)
    found = []
    with Checkpoints(Path(run.name) / "checkpoints", read_only=True) as checkpoints:
        for step in checkpoints.steps():
            with suppress(UserError):  # a damaged one; `restore` says so
                restored = checkpoints.restore({"model": abstract}, run.viewer.mesh, step)
                if restored is not None:
                    found.append(restored[0]["model"])
    return found


def mean_variables(trees: Sequence[Tree]) -> Tree:
    """The average of parameters, and of batch norm's running averages, array by array."""
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def notes(found: Found, images: int, classes: int) -> str:
    """What the table leaves open."""
    searched = "; ".join(
        f"{', '.join(f'{weight:.3f}' for weight in weights)} in {seen}"
        for seen, weights in zip(("one view", "ten views"), found.weights.values(), strict=True)
    )
    lines = [
        "In brackets: 95% confidence intervals (Wilson), in per cent.",
        f"Weights, searched on {(images + 1) // 2:,} even images by likelihood: {searched}.",
    ]
    if any(name.endswith(MEAN_PARAMETERS) for name in found.scores):
        lines += [
            "Kernels that began from other random weights have no common order: of their mean "
            f"expect\nchance, {1 - 1 / classes:.2%} top-1 error.",
        ]
    return "\n".join(lines)


def as_json(
    found: Found, runs: Sequence[TrainedNetwork], cache: Cache, split: str
) -> dict[str, Any]:
    """All of the result, in plain values; errors are fractions of 1."""
    rows = [
        {
            "way": name,
            **score._asdict(),
            "top1_interval": interval(score.top1_error, score.examples),
            "top5_interval": interval(score.top5_error, score.examples),
        }
        for name, scores in found.scores.items()
        for score in scores
    ]
    return {
        "dataset": cache.name,
        "fingerprint": cache.fingerprint,
        "split": split,
        "runs": [{"workdir": run.name, "step": run.step} for run in runs],
        "searched_weights": {str(n): list(weights) for n, weights in found.weights.items()},
        "rows": rows,
    }
