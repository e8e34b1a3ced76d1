"""What layers say of many images: of a split of the run's dataset, or of image files and folders.

All layers come from one pass over the images, some of them at a time; `feature_files` writes them.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import tqdm

from alexnet_jax import __version__
from alexnet_jax.data import photos
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import layers
from alexnet_jax.evaluation.trained_network import TrainedNetwork

AT_ONCE = 32  # images


class Row(NamedTuple):
    """An image: its name, and its label, -1 if that is not known."""

    name: str
    label: int


Batch = tuple[list[Row], np.ndarray]  # images and their pictures
Values = dict[str, np.ndarray]  # by layer, (N, ...)


class Wanted(NamedTuple):
    """What is wanted of images.

    Attributes:
        layers: by names that the network knows.
        maps: what they become: 'whole' as they are, 'flat' in one row, 'mean' over their places.
        order: of maps, 'channels_last' (N, H, W, C) or 'channels_first' (N, C, H, W), also before
            they are put in one row: the latter is the order of Caffe and PyTorch.
        dtype: 'float32' or 'float16'.
        ten_views: the means over the ten views, not the central one.
    """

    layers: tuple[str, ...]
    maps: str = "whole"
    order: str = "channels_last"
    dtype: str = "float32"
    ten_views: bool = False


class Pictures(NamedTuple):
    """Images to be looked at.

    Attributes:
        total: of them; of files, some of which may turn out not to be images.
        batches: all, some at a time, as uint8 (N, S, S, 3).
        one: one of them again, by its number and row.
    """

    total: int
    batches: Iterable[Batch]
    one: Callable[[int, Row], np.ndarray]


def open_dataset(
    network: TrainedNetwork, cache: str | None = None, data_dir: str | None = None
) -> Cache:
    """The dataset of a run, as training opens it.

    Args:
        network: of the run.
        cache: a prepared cache instead of the run's own.
        data_dir: the directory of datasets, if it is not the run's.

    Raises:
        UserError: it is not there or not prepared, or has other classes.
    """
    data = network.config.data
    path, holdout = cache or data.cache, 0.0 if cache else data.holdout
    if path == "none":
        raise UserError(
            "data.cache=none: give --cache=DIR (made by alexnet_jax.prepare), or the images as "
            "files instead of --split"
        )
    dataset = ensure_cache(data.source, network.size, data_dir or data.dir, holdout, path)
    if list(dataset.class_names) != network.class_names:
        raise UserError(
            f"{dataset.path} has other classes than {network.name}: name its images as files "
            "instead of --split"
        )
    return dataset


def of_split(cache: Cache, split: str) -> Pictures:
    """The images of a split.

    Raises:
        UserError: there is no such split.
    """
    splits = [name for name, images in cache.images.items() if len(images)]
    if split not in splits:
        raise UserError(f"--split={split}: the splits of {cache.name} are {', '.join(splits)}")
    images = cache.images[split]

    def batches() -> Iterator[Batch]:
        named = (Row(name, label) for label, _, name in cache.rows(split))
        for start in range(0, len(images), AT_ONCE):
            some = images[start : start + AT_ONCE]
            yield list(islice(named, len(some))), some

    return Pictures(len(images), batches(), lambda number, _: np.asarray(images[number]))


def of_files(network: TrainedNetwork, files: Sequence[str], problems: dict[str, str]) -> Pictures:
    """The images in files. Those that cannot be used are named on stderr, put into `problems`, and
    left out; the folder of a file is its label if it has the name of a class."""
    labels = photos.labels_by_name(network.class_names, network.classes)

    def batches() -> Iterator[Batch]:
        for batch in photos.read_images(files, network.size, AT_ONCE):
            rows, usable = [], []
            for file, found in batch:
                if isinstance(found, str):
                    problems[file] = found
                    skipped(file, found)
                    continue
                label = photos.folder_label(file, labels)
                rows.append(Row(file, -1 if label is None else label))
                usable.append(found)
            if rows:
                yield rows, np.stack(usable)

    return Pictures(len(files), batches(), lambda _, row: network.pictures([row.name])[0])


def skipped(file: str, problem: str) -> None:
    """Says so, above the progress bar."""
    tqdm.tqdm.write(f"skipped {photos.printable(file)}: {problem}", file=sys.stderr)


def compute(
    network: TrainedNetwork, wanted: Wanted, pictures: Pictures
) -> Iterator[tuple[list[Row], Values]]:
    """The rows and the features of some images after the other.

    Raises:
        UserError: none of the images can be used, or a number is too large for float16.
    """
    done, start = 0, time.perf_counter()
    with tqdm.tqdm(total=pictures.total, desc="features", unit=" images", disable=None) as progress:
        for rows, some in pictures.batches:
            yield rows, look(network, wanted, some, [row.name for row in rows])
            progress.update(len(rows))
            done += len(rows)
    if not done:
        raise UserError(f"none of the {pictures.total:,} files can be used")
    rate = done / (time.perf_counter() - start)
    print(f"{done:,} images, {rate:,.0f} images/s without compiling", file=sys.stderr)


def look(
    network: TrainedNetwork, wanted: Wanted, pictures: np.ndarray, names: Sequence[str]
) -> Values:
    """What is wanted of some pictures (N, S, S, 3), which have names.

    Raises:
        UserError: a number is too large for float16.
    """
    stages = {layer: network.stage(layer) for layer in wanted.layers}
    found = network.look(
        [*stages.values()],
        pictures,
        ten_views=wanted.ten_views,
        pooled=wanted.maps == "mean",
        batch_size=AT_ONCE,
    )
    values = {}
    for layer, stage in stages.items():
        array = found[stage]
        if array.ndim == 4 and wanted.order == "channels_first":
            array = array.transpose(0, 3, 1, 2)
        if wanted.maps == "flat":
            array = array.reshape(len(array), -1)
        with np.errstate(over="ignore"):
            values[layer] = narrow = array.astype(wanted.dtype, copy=False)
        lost = np.isinf(narrow) & np.isfinite(array)
        if lost.any():
            number = int(np.argwhere(lost)[0][0])
            raise UserError(
                f"{layer} goes up to {np.abs(array[number]).max():,.0f} in {names[number]}, and "
                "float16 to 65,504 only: leave out --dtype=float16"
            )
    return values


def shapes(network: TrainedNetwork, wanted: Wanted) -> dict[str, tuple[int, ...]]:
    """Of one image's features, by layer; compiles what `compute` needs, ahead of its clock."""
    black = np.zeros((1, network.size, network.size, 3), np.uint8)
    return {layer: a.shape[1:] for layer, a in look(network, wanted, black, ["black"]).items()}


def facts(network: TrainedNetwork, wanted: Wanted, layer: str) -> dict[str, Any]:
    """What the numbers of a layer are and where they are from; can be written as JSON."""
    return {
        "layer": layer,
        "stage": layers.own_name(network.viewer.model.network, network.stage(layer)),
        "maps": wanted.maps,
        "order": wanted.order,
        "dtype": wanted.dtype,
        "view": "mean of ten" if wanted.ten_views else "centre",
        "network": photos.printable(network.name),
        "step": network.step,
        "version": f"alexnet_jax {__version__}",
    }


def titles(network: TrainedNetwork) -> list[str]:
    """What to call each class: its words, and the dataset's name where two have the same."""
    count = Counter(network.classes)
    pairs = zip(network.classes, network.class_names, strict=True)
    return [words if count[words] == 1 else f"{words} ({name})" for words, name in pairs]


def gather(batches: Iterable[tuple[list[Row], Values]]) -> tuple[list[Row], Values]:
    """All at once, in memory."""
    parts = list(batches)
    values = {layer: np.concatenate([part[layer] for _, part in parts]) for layer in parts[0][1]}
    return [row for rows, _ in parts for row in rows], values
