"""A network that looks at pictures, compiled once for the stages that are wanted and each shape."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from alexnet_jax.evaluation.views import View, cut, ten_views
from alexnet_jax.model import AlexNet
from alexnet_jax.model.mesh import IMAGES
from alexnet_jax.model.platforms import platform_of

Tree = Any

PROBABILITIES = "prob"  # the stage after the network's last, by the name that Caffe gave it


class Means(NamedTuple):
    """The means over some views of each image, both (N, classes)."""

    probabilities: jax.Array  # as in 2012 (section 4.1)
    logits: jax.Array


class Viewer:
    """A network that looks at pictures: any of its stages, in any view.

    Compiles once for the stages that are wanted together, and each shape.
    """

    def __init__(self, model: AlexNet, mean_image: np.ndarray, *, aligned: bool = False) -> None:
        """Args:
        model: the network, on its mesh; computes in float32 here, whatever it was trained in.
        mean_image: (S, S, 3), to be subtracted.
        aligned: subtract it where a crop was, not its centre.
        """
        assert model.mesh is not None
        self.mesh, self.model = model.mesh, model.clone(dtype=jnp.float32)
        self.mean_image, self.aligned = jnp.asarray(mean_image), aligned
        self.crop = model.network.input_size
        self.views = ten_views(mean_image.shape[0], self.crop)
        self.sharding = NamedSharding(self.mesh, IMAGES)
        self._platform = platform_of(self.mesh)
        self._compiled: dict[Any, Any] = {}

    def __call__(
        self, variables: Tree, images: jax.Array, view: View, stage: str = "fc8"
    ) -> jax.Array:
        """The values of a stage, (N, ...), and by default the logits.

        Args:
            variables: of the model: `params` and perhaps `batch_stats`.
            images: (N, S, S, 3) uint8, on the mesh.
            view: one of `views`.
            stage: see `stages`.
        """
        return self.stages(variables, images, [view], [stage])[stage]

    def stages(
        self,
        variables: Tree,
        images: jax.Array,
        views: Sequence[View],
        names: Sequence[str],
        *,
        pooled: bool = False,
    ) -> dict[str, jax.Array]:
        """The values of several stages, all of one pass; the means over the views.

        Args:
            variables: of the model: `params` and perhaps `batch_stats`.
            images: (N, S, S, 3) uint8, on the mesh.
            views: some of `views`.
            names: of stages, see `AlexNet.__call__`; or `PROBABILITIES`.
            pooled: of maps (N, H, W, C) the means over their places, (N, C).
        """
        key = (*names, pooled)
        if key not in self._compiled:
            self._compiled[key] = jax.jit(
                partial(self._look, tuple(names), pooled),
                compiler_options=self._platform.compiler_options(),
            )
        look, (first, *others) = self._compiled[key], views
        found: dict[str, jax.Array] = look(variables, images, first)
        for view in others:
            self._platform.settle(found)
            found = jax.tree.map(jnp.add, found, look(variables, images, view))
        return {stage: found[stage] / len(views) if others else found[stage] for stage in names}

    def means(self, variables: Tree, images: jax.Array, views: Sequence[View]) -> Iterator[Means]:
        """Yields the means over the first view, over the first two, and so on.

        Args:
            variables: of the model.
            images: (N, S, S, 3) uint8, on the mesh.
            views: some of `views`.
        """
        probabilities = logits = None
        for count, view in enumerate(views, 1):
            of_view = self(variables, images, view)
            self._platform.settle(of_view)
            new = jax.nn.softmax(of_view)
            probabilities = new if probabilities is None else probabilities + new
            logits = of_view if logits is None else logits + of_view
            yield Means(probabilities / count, logits / count)

    def probabilities(self, variables: Tree, images: jax.Array, views: Sequence[View]) -> jax.Array:
        """The mean of the probabilities over some views, (N, classes), see `means`."""
        *_, last = self.means(variables, images, views)
        return last.probabilities

    def inspect(
        self, variables: Tree, images: jax.Array, view: View, label: int
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Every stage, and how the logit of a class depends on each number that is seen.

        Args:
            variables: of the model.
            images: (N, S, S, 3) uint8, on the mesh.
            view: one of `views`.
            label: of the class.

        Returns:
            The stages, (N, ...) each; of each image the gradient of its logit, (N, C, C, 3), in
            logits for a grey level.
        """
        if "inspect" not in self._compiled:
            options = self._platform.compiler_options()
            self._compiled["inspect"] = jax.jit(self._inspect, compiler_options=options)
        found: tuple[dict[str, jax.Array], jax.Array]
        found = self._compiled["inspect"](variables, images, view, label)
        return found

    def _inspect(
        self, variables: Tree, images: jax.Array, view: View, label: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        def logit(seen: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            found: Any = self.model.apply(variables, seen, intermediates=True)
            logits, stages = found
            return jnp.take(logits, label, axis=1).sum(), stages  # each image has its own

        with jax.default_matmul_precision("float32"):
            seen = cut(images, self.mean_image, view, self.crop, aligned=self.aligned)
            slopes, stages = jax.grad(logit, has_aux=True)(seen)
        return stages, slopes

    def _look(
        self,
        names: tuple[str, ...],
        pooled: bool,
        variables: Tree,
        images: jax.Array,
        view: View,
    ) -> dict[str, jax.Array]:
        # Float32 products everywhere: TPUs and TF32 would round a test's inputs by default.
        with jax.default_matmul_precision("float32"):
            seen = cut(images, self.mean_image, view, self.crop, aligned=self.aligned)
            inside = [stage for stage in names if stage != PROBABILITIES]
            computed: Any = self.model.apply(variables, seen, intermediates=inside)
        logits, found = computed
        if PROBABILITIES in names:
            found[PROBABILITIES] = jax.nn.softmax(logits)
        if not pooled:
            return found
        return {stage: x.mean((1, 2)) if x.ndim == 4 else x for stage, x in found.items()}
