"""Labelled images by index, from TFDS, a folder of class folders, or IDX files.

A source is opened by a short text, the `data.source` field of the configuration:

    embedded[/full|/tiny]             dead-leaves images that the package draws itself
    fashion_mnist                     TFDS if prepared there, else Debian's IDX files
    idx:DIR                           any folder with MNIST's four IDX files
    tfds:NAME[/config][:version]      any prepared TFDS image-classification dataset
    folder:PATH                       PATH/<train|val|test>/<class>/*.jpg

TFDS and its imports are loaded only by the sources that need them.
"""

import contextlib
import dataclasses
import fcntl
import gzip
import io
import os
import pathlib
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging
from PIL import Image

from alexnet_jax.errors import UserError

DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
FOLDER_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class Split(Protocol):
    """Labelled images by index; safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """The image, uint8 (H, W, 3) in RGB order, and its label in 0..classes-1."""

    def label(self, index: int) -> int:
        """The label alone, without decoding the image."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A named dataset: its class names, and its splits by name ('train', 'validation', 'test')."""

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]


def open_source(spec: str, data_dir: str | None = None) -> Source:
    """Opens the dataset that `spec` names.

    Args:
        spec: one of the forms in this module's docstring.
        data_dir: TFDS's directory; None means TFDS's own default (`default_data_dir`).

    Raises:
        UserError: if the spec is not understood or its data is not there; the message says how to
            get it.
    """
    kind, _, rest = spec.partition(":")
    if spec == "embedded" or spec.startswith("embedded/"):
        return _open_embedded(spec.partition("/")[2] or "full", resolve_data_dir(data_dir))
    if spec == "fashion_mnist":
        return _open_fashion_mnist(resolve_data_dir(data_dir))
    if kind == "idx" and rest:
        return open_idx(rest)
    if kind == "tfds" and rest:
        return open_tfds(rest, resolve_data_dir(data_dir))
    if kind == "folder" and rest:
        return open_folder(rest)
    raise UserError(
        f"unknown data source {spec!r}: expected embedded, fashion_mnist, idx:DIR, folder:PATH or "
        f"tfds:NAME[/config][:version] (did you mean tfds:{spec.strip(':') or 'imagenet2012'}?)"
    )


def resolve_data_dir(data_dir: str | None) -> str:
    """The directory given, else TFDS's own default: `TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return chosen if "://" in chosen else os.path.abspath(os.path.expanduser(chosen))


def decode_image(encoded: bytes) -> np.ndarray:
    """Decodes any format Pillow knows to uint8 (H, W, 3) RGB.

    Grey is repeated, CMYK converted, an alpha channel dropped.

    Raises:
        OSError: if the bytes are no image or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode.startswith(
                "I"
            ):  # 16-bit grey, which Pillow's own conversion clips at 255
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (SyntaxError, ValueError, EOFError, struct.error) as error:
        raise OSError(f"damaged image: {error}") from error  # Pillow's readers raise all of these


@contextlib.contextmanager
def exclusive_lock(path: str) -> Iterator[None]:
    """Holds an advisory lock on the file `path`, made if it is not there; waits for others.

    The file stays behind, empty: removing it would let two processes lock two files of one name.

    Raises:
        UserError: if the file cannot be made or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = stack.enter_context(open(path, "a"))
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file closes, however we end
        except OSError as error:
            raise UserError(
                f"cannot write and lock {path} ({error.strerror}): "
                "set config.data.dir to a directory you can write"
            ) from error
        yield


# --- TFDS -----------------------------------------------------------------------------------------


class EncodedSplit:
    """A TFDS data source with undecoded images: the decoding is ours, see `decode_image`."""

    def __init__(self, records: Sequence[Any], image_key: str, label_key: str):
        self._records = records
        self._image_key = image_key
        self._label_key = label_key

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        record = self._records[index]
        return decode_image(record[self._image_key]), int(record[self._label_key])

    def label(self, index: int) -> int:
        return int(self._records[index][self._label_key])


def open_tfds(name: str, data_dir: str) -> Source:
    """Opens a prepared TFDS dataset, `NAME[/config][:version]`, without TensorFlow.

    It is rebuilt from its own files, so the code that made it is not needed.
    Splits without labels (imagenet2012's test split has -1 everywhere) are left out.

    Raises:
        UserError: if it is not prepared under `data_dir`, not as ArrayRecord, or is no
            classification of images.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (registered.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f"tfds:{name} is not prepared under {data_dir}: {_prepare_command(name, data_dir)}"
        ) from error
    return source_from_builder(builder, name)


def source_from_builder(builder: Any, name: str) -> Source:
    """Makes a source of a prepared TFDS builder that has one image and one class-label feature."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image_key = _only_feature(features, tfds.features.Image, name)
    label_key = _only_feature(features, tfds.features.ClassLabel, name)
    try:
        records = builder.as_data_source(decoders={image_key: tfds.decode.SkipDecoding()})
    except (NotImplementedError, ValueError) as error:
        # TFDS's own message speaks of TFRECORD even where nothing was prepared at all.
        raise UserError(
            f"{name} is prepared in {builder.data_dir}, but not as ArrayRecord, the format that is "
            "read by index: "
            f"{_prepare_command(name, os.path.dirname(builder.data_dir))}"
        ) from error
    splits = {split: EncodedSplit(data, image_key, label_key) for split, data in records.items()}
    labelled = {split: data for split, data in splits.items() if len(data) and data.label(0) >= 0}
    return Source(name, tuple(features[label_key].names), labelled)


def _only_feature(features: Any, kind: type, name: str) -> str:
    """The key of the only feature of a kind; `image` and `label` win where there are several."""
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    preferred = [key for key in keys if key in ("image", "label")] or keys
    if len(preferred) != 1:
        raise UserError(
            f"{name} is not an image-classification dataset: expected one {kind.__name__} feature, "
            f"found {keys}"
        )
    return preferred[0]


def _prepare_command(name: str, data_dir: str) -> str:
    base = name.split(":")[0]
    return (
        f"run `tfds build {base} --file_format=array_record --data_dir={data_dir}`, or set "
        "config.data.dir to where it is prepared (datasets over 1 GB and imagenet2012 need "
        "TensorFlow to prepare, not to read: `pip install -e '.[prepare]'`)"
    )


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps TFDS to its progress bars, and to none where nobody watches.

    It prints "Unknown size" to stdout, and warns of the directory that it is about to make.
    """
    import tensorflow_datasets as tfds

    verbosity = logging.get_verbosity()  # absl's: INFO is 0, WARNING -1, ERROR -2
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.enable_progress_bar()


def _open_embedded(config: str, data_dir: str) -> Source:
    """Opens the package's own dataset, drawing it first where it is not there yet."""
    from alexnet_jax.data import embedded

    configs = embedded.EmbeddedImages.builder_configs
    if config not in configs:
        raise UserError(
            f"unknown data source embedded/{config}: choose embedded/{'|'.join(configs)}"
        )
    arguments = {"data_dir": data_dir, "config": config, "file_format": "array_record"}
    with _quiet_tfds():
        builder = embedded.EmbeddedImages(**arguments)
        if not builder.is_prepared():
            with exclusive_lock(os.path.join(data_dir, "alexnet_jax", f".embedded-{config}.lock")):
                # Another process may have drawn it while this one waited: this returns at once.
                builder = embedded.prepare(data_dir, config)
    return source_from_builder(builder, f"embedded/{config}")


# --- IDX files (MNIST's format) -------------------------------------------------------------------


class ArraySplit:
    """Grey images and labels in memory; the images come out as RGB, the grey value repeated."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.repeat(self._images[index][..., None], 3, axis=2), int(self._labels[index])

    def label(self, index: int) -> int:
        return int(self._labels[index])


def _open_fashion_mnist(data_dir: str) -> Source:
    """TFDS's copy where it is prepared, else the IDX files of Debian's package."""
    if os.path.isdir(os.path.join(data_dir, "fashion_mnist")):
        with contextlib.suppress(UserError):  # there, but not readable: the files below will do
            return open_tfds("fashion_mnist", data_dir)
    if os.path.isdir(DEBIAN_FASHION_MNIST):
        source = open_idx(DEBIAN_FASHION_MNIST)
        return dataclasses.replace(source, name="fashion_mnist", class_names=FASHION_MNIST_CLASSES)
    raise UserError(
        "Fashion-MNIST is not here: run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), "
        f"or `tfds build fashion_mnist --file_format=array_record --data_dir={data_dir}`, or set "
        "data.source=idx:DIR where DIR holds its four IDX files"
    )


def open_idx(folder: str) -> Source:
    """Opens the four IDX files of MNIST and its kin, `train-images-idx3-ubyte[.gz]` and so on.

    Raises:
        UserError: if a file is missing, is no IDX file, or its length or its labels do not fit.
    """
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels):
            raise UserError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
        splits[split] = ArraySplit(images, labels)
    classes = 1 + max(split.label(i) for split in splits.values() for i in range(len(split)))
    return Source(f"idx:{folder}", tuple(str(label) for label in range(classes)), splits)


def _idx_file(folder: str, name: str) -> pathlib.Path:
    for candidate in (pathlib.Path(folder, f"{name}.gz"), pathlib.Path(folder, name)):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{folder} holds no {name}.gz or {name}: idx:DIR needs the four IDX files of MNIST"
    )


def read_idx(path: pathlib.Path, dimensions: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes: 0, 0, type 8, the rank, big-endian sizes, the data."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != np.prod(shape):
        raise UserError(
            f"{path} is damaged: shape {shape}, but {len(content) - header} bytes of data"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


# --- folders --------------------------------------------------------------------------------------


class FolderSplit:
    """Image files and their labels."""

    def __init__(self, paths: Sequence[pathlib.Path], labels: Sequence[int]):
        self._paths = paths
        self._labels = labels

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        try:
            return decode_image(self._paths[index].read_bytes()), self._labels[index]
        except OSError as error:
            raise OSError(f"{self._paths[index]}: {error}") from error

    def label(self, index: int) -> int:
        return self._labels[index]


def open_folder(path: str) -> Source:
    """Opens PATH/<split>/<class>/<files>; classes are numbered by the sorted names in PATH/train.

    Raises:
        UserError: if there is no PATH/train, or another split has a class that it lacks.
    """
    root = pathlib.Path(path).expanduser()
    if not (root / "train").is_dir():
        raise UserError(
            f"folder:{path}: expected {root}/train/<class>/*.jpg, but there is no {root}/train"
        )
    class_names = _subfolders(root / "train")
    splits: dict[str, Split] = {}
    for folder, split in FOLDER_SPLITS.items():
        if not (root / folder).is_dir():
            continue
        if split in splits:
            raise UserError(f"folder:{path} has both val and validation: keep one")
        unknown = sorted(set(_subfolders(root / folder)) - set(class_names))
        if unknown:
            raise UserError(
                f"{root / folder} has classes that {root}/train lacks: {', '.join(unknown[:5])}"
            )
        files = [
            (file, label)
            for label, name in enumerate(class_names)
            for file in sorted((root / folder / name).glob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES
        ]
        splits[split] = FolderSplit([file for file, _ in files], [label for _, label in files])
    return Source(f"folder:{path}", tuple(class_names), splits)


def _subfolders(path: pathlib.Path) -> list[str]:
    return sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
