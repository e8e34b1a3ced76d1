"""Top-1 and top-5 error and loss of a network, in one view and in ten (paper section 4.1).

Every example counts exactly once, whatever the batch size and the mesh: batches are padded, the
padding weighs nothing, and sums, not averages, are added up.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from alexnet_jax import views
from alexnet_jax.build import build
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data.stream import evaluation_batches
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet, cpu, towers
from alexnet_jax.scores import Score, sums

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
        assert model.mesh is not None
        self.mesh = model.mesh
        self.model = model.clone(dtype=jnp.float32)
        self.crop = model.network.input_size
        self.views = views.test_views(mean_image.shape[0], self.crop)
        data = model.mesh.shape["data"]
        self.batch_size = -(-batch_size // data) * data
        self.sharding = NamedSharding(model.mesh, towers.IMAGES)
        mean = jnp.asarray(mean_image)

        def see(variables: Tree, images: jax.Array, view: tuple[jax.Array, ...]) -> jax.Array:
            # Float32 products everywhere: TPUs and TF32 would round a test's inputs by default.
            with jax.default_matmul_precision("float32"):
                seen = views.cut(images, mean, view, self.crop, aligned=aligned)
                logits: Any = self.model.apply(variables, seen)
            return jax.nn.softmax(logits)

        options = cpu.compiler_options(self.mesh)
        self.see: Callable[..., jax.Array] = jax.jit(see, compiler_options=options)
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
        for plain in evaluation_batches(images, labels, self.batch_size):
            batch = jax.device_put(plain, self.sharding)
            first, *others = self.views
            mean = self.see(variables, batch["image"], first)
            seen = {1: mean}
            if ten_views:
                for view in others:
                    mean = mean + self.see(variables, batch["image"], view)
                    towers.settle(mean, self.mesh)
                seen[len(self.views)] = mean / len(self.views)
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
    size = model.network.input_size
    abstract = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((mesh.shape["data"], size, size, 3)))
    )
    wanted = {"params": abstract["params"], "batch_stats": abstract.get("batch_stats", {})}
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.best() if best else None
        if best and step is None:
            raise UserError(f"{workdir} has no validation errors to choose by: leave out --best")
        found = checkpoints.restore({"model": wanted}, mesh, step)
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it with --mode=train")
    trees, record = found
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
    scores = evaluator(trees["model"], cache.images[split], cache.labels[split], ten_views=True)
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
