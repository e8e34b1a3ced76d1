"""Top-1 and top-5 error and loss of a network, in one view and in ten (paper section 4.1).

Every example counts exactly once, whatever the batch size and the mesh: batches are padded, the
padding weighs nothing, and sums, not averages, are added up.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import views
from alexnet_jax.build import build
from alexnet_jax.data.stream import evaluation_batches
from alexnet_jax.model import AlexNet, towers
from alexnet_jax.scores import Score, sums
from alexnet_jax.trained import Viewer, restore

Tree = Any


class Evaluator:
    """A network, ready to be tested on fixed-size images; compiles once for all its calls."""

    def __init__(
        self, model: AlexNet, mean_image: np.ndarray, batch_size: int, *, aligned: bool = False
    ) -> None:
        """Args:
        model: the network, on its mesh.
        mean_image: (S, S, 3), to be subtracted.
        aligned: subtract it where a crop was, not its centre.
        batch_size: images at a time over all devices; rounded up to a multiple of the data axis.
        """
        self.viewer = Viewer(model, mean_image, aligned=aligned)
        self.mesh = self.viewer.mesh
        data = self.mesh.shape["data"]
        self.batch_size = -(-batch_size // data) * data
        self.sums = jax.jit(sums)

    def __call__(
        self, variables: Tree, images: np.ndarray, labels: np.ndarray, *, ten_views: bool
    ) -> list[Score]:
        """The score in one view and, if asked, in ten.

        The probabilities of the views are averaged (section 4.1), and the loss is that of the
        average.

        Args:
            variables: of the model: `params` and perhaps `batch_stats`.
            images: (N, S, S, 3) uint8.
            labels: (N,) integers.
            ten_views: also average over the ten views; ten times the work.
        """
        totals: dict[int, dict[str, float]] = {}
        for batch, seen in self._probabilities(variables, images, labels, ten_views):
            for count, probabilities in seen.items():
                added = self.sums(probabilities, batch["label"], batch["weight"])
                total = totals.setdefault(count, dict.fromkeys(added, 0.0))
                for name, value in added.items():
                    total[name] += float(value)
        return [_score(count, total) for count, total in sorted(totals.items())]

    def _probabilities(
        self, variables: Tree, images: np.ndarray, labels: np.ndarray, ten_views: bool
    ) -> Iterator[tuple[dict[str, jax.Array], dict[int, jax.Array]]]:
        viewer = self.viewer

        def see(view: views.View) -> jax.Array:
            return jax.nn.softmax(viewer(variables, batch["image"], view))

        for plain in evaluation_batches(images, labels, self.batch_size):
            batch = jax.device_put(plain, viewer.sharding)
            first, *others = viewer.views
            mean = see(first)
            seen = {1: mean}
            if ten_views:
                for view in others:
                    mean = mean + see(view)
                    towers.settle(mean, self.mesh)
                seen[len(viewer.views)] = mean / len(viewer.views)
            yield batch, seen


def evaluate_run(config: ConfigDict, workdir: Path, *, best: bool = False) -> list[Score]:
    """Restores the last checkpoint of a run, or its best, and tests it.

    Args:
        config: of the run; its mesh may be another than the one it was trained on.
        workdir: of the run.
        best: the checkpoint with the lowest validation error instead of the last.

    Raises:
        UserError: there is no such checkpoint.
    """
    cache, mesh, model = build(config)
    variables, record = restore(config, workdir, mesh, best=best)
    split = config.data.test
    print(
        f"step {record['step']:,} of {workdir}, {len(cache.images[split]):,} images of the split "
        f"{split!r}, mesh of {towers.describe(mesh)}, float32 products",
        flush=True,
    )
    if record["dataset"] != cache.fingerprint:
        print(f"note: this run was trained on other data than {cache.path} holds now")
    evaluator = Evaluator(
        model, cache.mean_image, config.eval_batch_size, aligned=config.data.mean == "aligned"
    )
    scores = evaluator(variables, cache.images[split], cache.labels[split], ten_views=True)
    for score in scores:
        print(score)
    return scores


def _score(count: int, total: dict[str, float]) -> Score:
    examples = total["examples"]
    return Score(
        views=count,
        examples=round(examples),
        loss=total["loss"] / examples,
        top1_error=total["top1"] / examples,
        top5_error=total["top5"] / examples,
    )
