"""Top-1 and top-5 error and loss of a network, in one view and in ten (paper section 4.1).

Every example counts exactly once, whatever the batch size and the mesh: batches are padded, the
padding weighs nothing, and sums, not averages, are added up.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
from tqdm import tqdm

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.stream import assembled, evaluation_batches, process_share
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.scores import Score, Tally, interval
from alexnet_jax.evaluation.viewer import Viewer
from alexnet_jax.model import AlexNet
from alexnet_jax.model.mesh import describe_mesh
from alexnet_jax.run import hosts
from alexnet_jax.run.devices import enough_memory
from alexnet_jax.run.inputs import read_input
from alexnet_jax.run.parts import build
from alexnet_jax.run.restore import restore_weights

Tree = Any
Batch = dict[str, jax.Array]
Watch = Callable[[int, jax.Array, Batch], None]  # count of views, probabilities, batch


class Evaluator:
    """A network, ready to be tested on fixed-size images; compiles once for all its calls."""

    def __init__(
        self, model: AlexNet, mean_image: np.ndarray, batch_size: int, *, aligned: bool = False
    ) -> None:
        """Args:
        model: the network, on its mesh.
        mean_image: (S, S, 3), to be subtracted.
        batch_size: images at a time over all devices; rounded up to a multiple of the data axis.
        aligned: subtract the mean where a crop was, not its centre.
        """
        self.viewer = Viewer(model, mean_image, aligned=aligned)
        self.batch_size = batch_size

    def __call__(
        self,
        variables: Tree,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        ten_views: bool,
        bar: bool = False,
        watch: Watch | None = None,
    ) -> list[Score]:
        """The score in one view and, if asked, in ten.

        The probabilities of the views are averaged (section 4.1), and the loss is that of the
        average.

        Args:
            variables: of the model: `params` and perhaps `batch_stats`.
            images: (N, S, S, 3) uint8.
            labels: (N,) integers.
            ten_views: also average over the ten views; ten times the work.
            bar: show the progress, where stderr is a terminal.
            watch: is called with what is scored: how many views, the mean of their probabilities,
                (N, classes), and the batch.
        """
        tally = Tally()
        views = self.viewer.views if ten_views else self.viewer.views[:1]
        with progress(len(images), bar) as shown:
            for batch in batches(images, labels, self.batch_size, self.viewer.sharding, shown):
                means = self.viewer.means(variables, batch["image"], views)
                for count, mean in enumerate(means, 1):
                    if count in (1, len(views)):
                        tally.add("", count, mean.probabilities, batch)
                        if watch:
                            watch(count, mean.probabilities, batch)
        return tally.scores()[""]


def batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, sharding: NamedSharding, bar: tqdm
) -> Iterator[Batch]:
    """Puts images to be tested on the devices, a batch at a time.

    Args:
        images: (N, S, S, 3) uint8, or what looks like such an array.
        labels: (N,) integers.
        batch_size: over all devices; rounded up to a multiple of the mesh's data axis.
        sharding: of a batch.
        bar: counts the images.

    Yields:
        `image`, `label` and `weight` of `evaluation_batches`.
    """
    data = sharding.mesh.shape["data"]
    batch_size = -(-batch_size // data) * data
    index, count = process_share(sharding, batch_size)
    starts = range(0, len(images), batch_size)
    batches = evaluation_batches(
        images, labels, batch_size, process_index=index, process_count=count
    )
    for start, batch in zip(starts, batches, strict=True):
        yield assembled(batch, sharding)
        bar.update(min(batch_size, len(images) - start))


def progress(images: int, shown: bool = True) -> tqdm:
    """A bar that counts images, where stderr is a terminal."""
    hidden = None if shown and hosts.first() else True
    return tqdm(total=images, unit=" images", disable=hidden, dynamic_ncols=True)


def check_classes(where: object, class_names: Sequence[str], cache: Cache) -> None:
    """Refuses to test a network on labels that mean something else.

    Args:
        where: the network comes from.
        class_names: of the network's outputs, in order.
        cache: the dataset.

    Raises:
        UserError: its classes are others, or in another order.
    """
    theirs = list(cache.class_names)
    if list(class_names) == theirs:
        return
    pairs = enumerate(zip(class_names, theirs, strict=False))
    differing = [f"label {i} is {ours!r} and {own!r}" for i, (ours, own) in pairs if ours != own]
    what = differing[0] if differing else f"there are {len(class_names)} and {len(theirs)}"
    raise UserError(
        f"the classes of {where} are not those of {cache.name}: {what}; test it on a dataset with "
        "its own classes, by --config.data.source or --config.data.cache"
    )


class Opened(NamedTuple):
    """A run with its weights, and the dataset that it is to be tested on."""

    workdir: Path
    config: ConfigDict
    cache: Cache
    mesh: Mesh
    model: AlexNet
    variables: Tree
    record: dict[str, Any]  # of the checkpoint
    mean_image: np.ndarray
    class_names: list[str]


def open_run(config: ConfigDict, workdir: str | Path, *, best: bool = False) -> Opened:
    """Restores the last checkpoint of a run, or its best, and says what it will be tested on.

    Args:
        config: of the run; its mesh may be another than the one it was trained on.
        workdir: of the run.
        best: the checkpoint with the lowest validation error instead of the last.

    Raises:
        UserError: there is no such checkpoint, or the dataset has other classes.
    """
    workdir = Path(workdir).expanduser()
    cache, mesh, model = build(config)
    mean_image, class_names = read_input(workdir, config)
    check_classes(workdir, class_names, cache)
    variables, record = restore_weights(config, workdir, mesh, best=best)
    split = config.data.test
    print(
        f"step {record['step']:,} of {workdir}, {len(cache.images[split]):,} images of the split "
        f"{split!r}, mesh of {describe_mesh(mesh)}, float32 products",
        flush=True,
    )
    if record["dataset"] not in (None, cache.fingerprint):  # None: no run made these weights
        print(f"note: this run was trained on other data than {cache.path} holds now")
    return Opened(workdir, config, cache, mesh, model, variables, record, mean_image, class_names)


def evaluate(run: Opened, watch: Watch | None = None) -> list[Score]:
    """Tests a run in one view and in ten, and prints the errors.

    Args:
        run: what is tested.
        watch: see `Evaluator`.
    """
    config, split = run.config, run.config.data.test
    evaluator = Evaluator(
        run.model, run.mean_image, config.eval_batch_size, aligned=config.data.mean == "aligned"
    )
    images, labels = run.cache.images[split], run.cache.labels[split]
    with enough_memory(config, "eval_batch_size"):
        scores = evaluator(run.variables, images, labels, ten_views=True, bar=True, watch=watch)
    for score in scores:
        between = [
            f"top-{k} {low:.2%} to {high:.2%}"
            for k, error in ((1, score.top1_error), (5, score.top5_error))
            for low, high in [interval(error, score.examples)]
        ]
        print(f"95% intervals: {', '.join(between)} in {score.seen}")
    for score in scores:
        print(score)
    return scores


def evaluate_run(config: ConfigDict, workdir: str | Path, *, best: bool = False) -> list[Score]:
    """Restores the last checkpoint of a run, or its best, and tests it, see `open_run`."""
    return evaluate(open_run(config, workdir, best=best))
