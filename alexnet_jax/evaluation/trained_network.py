"""A trained network, ready to be asked: `alexnet_jax.load(workdir)`.

`workdir` is the directory of a run, or what `alexnet_jax.convert` made of imported weights. It is
all that is needed; the dataset may be gone. Without a `workdir` the network that comes with the
package is loaded: that of the README's first command, which tells five patterns in four hues apart
and knows nothing else (`experiments.included` makes it).
"""

import operator
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.data.photos import printable
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import given, layers
from alexnet_jax.evaluation.viewer import Viewer
from alexnet_jax.files import INCLUDED
from alexnet_jax.model import AlexNet, make_mesh
from alexnet_jax.run.devices import out_of_memory
from alexnet_jax.run.inputs import read_input, words
from alexnet_jax.run.restore import restore_weights

Tree = Any
Images = Any  # one or many, see `TrainedNetwork.pictures`

AT_ONCE = 32  # images, of those who ask for many


class TrainedNetwork:
    """A network with its weights: images in, probabilities and features out.

    Attributes:
        name: where it came from.
        viewer: the network, on its mesh.
        variables: `params` and perhaps `batch_stats`.
        size: S, of the pictures that views are cut from, in pixels.
        class_names: of each label, as the dataset has them.
        classes: the same in words.
        config: of the run.
        step: of the checkpoint.
    """

    def __init__(
        self,
        name: str,
        config: ConfigDict,
        mesh: Mesh,
        variables: Tree,
        mean_image: np.ndarray,
        class_names: Sequence[str],
        step: int,
    ) -> None:
        """Keeps what `load` has read."""
        self.name, self.config, self.variables, self.step = name, config, variables, step
        model = AlexNet(settings.network(config), mesh)
        self.viewer = Viewer(model, mean_image, aligned=config.data.mean == "aligned")
        self.size = mean_image.shape[0]
        self.class_names, self.classes = list(class_names), words(class_names)

    def __repr__(self) -> str:
        """Where it comes from, what it takes and what it knows, in a line."""
        mesh = self.viewer.mesh
        axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        names = (
            self.classes if len(self.classes) < 4 else [*self.classes[:2], "...", self.classes[-1]]
        )
        return printable(
            f"<TrainedNetwork {self.name}, step {self.step:,}: {len(self.classes):,} classes "
            f"({', '.join(names)}), images of {self.size}x{self.size}, views of "
            f"{self.viewer.crop}x{self.viewer.crop}, mesh {axes} ({mesh.devices.flat[0].platform})>"
        )

    def pictures(self, images: Images) -> np.ndarray:
        """Images as uint8 (N, S, S, 3): the shorter side becomes S pixels, and the central square
        is kept (section 2).

        Args:
            images: one image or an iterable of them. An image is a path, an open file or its bytes,
                an image of Pillow, or pixels, uint8 (H, W), (H, W, 1), (H, W, 3) in RGB order or
                (H, W, 4), of NumPy, jax, torch or their like. Many may also be one array
                (N, H, W, channels).

        Raises:
            UserError: one cannot be used, or is none. The text says which and why.
        """
        return given.squares(images, self.size)

    def logits(self, images: Images, view: int = 0) -> np.ndarray:
        """(N, classes) float32, from one of the ten views; 0 is the central one.

        Raises:
            UserError: see `pictures`; or there is no such view.
        """
        return self.look(["fc8"], images, view)["fc8"]

    def predict(
        self,
        images: Images,
        *,
        ten_views: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The probability of each class for each image.

        Args:
            images: see `pictures`.
            ten_views: average over the ten views (section 4.1), at ten times the work.
            batch_size: images at a time, see `in_batches`.

        Returns:
            (N, classes) float32.

        Raises:
            UserError: see `pictures`.
        """
        views = self.viewer.views if ten_views else self.viewer.views[:1]
        found: np.ndarray = self._all(
            lambda placed: self.viewer.probabilities(self.variables, placed, views),
            images,
            batch_size,
        )
        return found

    @overload
    def features(
        self,
        images: Images,
        layer: str = "fc7",
        view: int = 0,
        *,
        ten_views: bool = False,
        pooled: bool = False,
    ) -> np.ndarray: ...

    @overload
    def features(
        self,
        images: Images,
        layer: list[str] | tuple[str, ...],
        view: int = 0,
        *,
        ten_views: bool = False,
        pooled: bool = False,
    ) -> dict[str, np.ndarray]: ...

    def features(
        self,
        images: Images,
        layer: str | list[str] | tuple[str, ...] = "fc7",
        view: int = 0,
        *,
        ten_views: bool = False,
        pooled: bool = False,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """What a layer, or several in one pass, says of each image.

        Args:
            images: see `pictures`.
            layer: one of `layers`, or a list of them. 'fc7' is the layer's activations (after the
                ReLU), 'fc7/sum' its responses before, 'conv5/pool' what comes out of pooling,
                'prob' the probabilities.
            view: which of the ten views; 0 is the central one.
            ten_views: the means over all ten instead, as section 4.1 has those of 'prob'. Of maps
                these are means over places that differ, unless they are pooled.
            pooled: of maps (N, H, W, C) the means over their places, (N, C).

        Returns:
            (N, ...) float32, channels last; of several layers a dictionary by their names.

        Raises:
            UserError: see `pictures`; or there is no such layer or view.
        """
        names = list(layer) if isinstance(layer, list | tuple) else [layer]
        if not names:
            raise UserError("no layers were given")
        stages = {name: self.stage(name) for name in names}
        found = self.look([*stages.values()], images, view, ten_views=ten_views, pooled=pooled)
        values = {name: found[stage] for name, stage in stages.items()}
        return values if isinstance(layer, list | tuple) else values[layer]

    @cached_property
    def layers(self) -> dict[str, str]:
        """The names that `features` knows, this program's, Caffe's and perhaps torchvision's, each
        with that of the stage in the network (see `evaluation.layers`)."""
        return layers.all_names(self.viewer.model.network)

    def stage(self, layer: str) -> str:
        """The stage of the network that a name of `layers` means.

        Raises:
            UserError: there is no such layer.
        """
        return layers.stage_of(self.viewer.model.network, layer)

    def look(
        self,
        stages: Sequence[str],
        images: Images,
        view: int = 0,
        *,
        ten_views: bool = False,
        pooled: bool = False,
        batch_size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """The values of several stages, each (N, ...) float32, in one pass over the images.

        Args:
            stages: of the network, see `Viewer.stages`.
            images: see `pictures`.
            view: which of the ten views.
            ten_views: the means over all ten instead.
            pooled: of maps the means over their places.
            batch_size: images at a time, see `in_batches`.
        """
        views = self.viewer.views
        chosen = views if ten_views else [views[_whole_number("view", view, range(len(views)))]]
        names = list(dict.fromkeys(stages))
        found: dict[str, np.ndarray] = self._all(
            lambda placed: self.viewer.stages(self.variables, placed, chosen, names, pooled=pooled),
            images,
            batch_size,
        )
        return found

    def _all(
        self,
        compute: Callable[[jax.Array], Tree],
        images: Images,
        batch_size: int | None,
    ) -> Tree:
        parts = list(self.in_batches(compute, self.pictures(images), batch_size))
        if not parts:
            raise UserError("no images were given")
        return jax.tree.map(lambda *some: np.concatenate(some), *parts)

    def in_batches(
        self,
        compute: Callable[[jax.Array], Tree],
        pictures: np.ndarray,
        batch_size: int | None = None,
    ) -> Iterator[Tree]:
        """Computes something of pictures, some of them at a time, in one shape for all.

        Args:
            compute: one or several arrays (B, ...) of pictures on the devices, (B, S, S, 3) uint8.
            pictures: (N, S, S, 3) uint8; may be memory-mapped.
            batch_size: B, over all devices, rounded up to a multiple of the data axis; the last
                pictures are followed by black ones. By default 32, or where there are fewer the
                power of two that holds all.
        """
        if batch_size is None:
            batch_size = batch_size_for(len(pictures))
        batch_size = _whole_number("batch_size", batch_size, range(1, 1 << 31))
        data = self.viewer.mesh.shape["data"]
        for start in range(0, len(pictures), batch_size):
            some = np.asarray(pictures[start : start + batch_size])
            spare = -(-batch_size // data) * data - len(some)
            padded = np.concatenate([some, np.zeros((spare, *some.shape[1:]), np.uint8)])
            with out_of_memory(f"batch_size={batch_size} in float32: give fewer images at a time"):
                found = jax.device_get(compute(jax.device_put(padded, self.viewer.sharding)))
            count = len(some)
            yield jax.tree.map(lambda a, n=count: a.astype(np.float32, copy=False)[:n], found)


def _whole_number(name: str, value: Any, allowed: range) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number not in allowed:
        raise UserError(f"{name}={value!r}: expected {allowed[0]} to {allowed[-1]:,}")
    return number


def batch_size_for(count: int) -> int:
    """How many of so many images to look at at once: 32, or a power of two that holds all."""
    return min(AT_ONCE, 1 << max(0, count - 1).bit_length())


def load(
    workdir: str | Path | None = None, *, best: bool = False, mesh: Mesh | None = None
) -> TrainedNetwork:
    """The network of a run, or of converted weights, or the one that comes with the package.

    Args:
        workdir: of the run; None: the network in the package, which knows patterns and hues.
        best: the checkpoint with the lowest validation error instead of the last.
        mesh: where to compute; by default all devices of this process, each with both towers.

    Raises:
        UserError: there is no such run, or nothing was saved yet.
    """
    workdir = INCLUDED if workdir is None else Path(os.path.expanduser(workdir))
    config = settings.read(workdir / "config.json")
    mesh = make_mesh(0, 1, devices=jax.local_devices()) if mesh is None else mesh
    mean_image, class_names = read_input(workdir, config)
    variables, record = restore_weights(config, workdir, mesh, best=best)
    return TrainedNetwork(
        str(workdir), config, mesh, variables, mean_image, class_names, int(record["step"])
    )
