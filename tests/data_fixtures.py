"""Small real data for the tests: encoded images, a TFDS builder, IDX files, a cache in memory."""

import gzip
import io
import pathlib
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.sources.record import Record, Source
from alexnet_jax.errors import UserError


def photo(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth uint8 colour image (H, W, 3): JPEG keeps such to a few grey levels."""
    coarse = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, form: str = "JPEG", mode: str | None = None) -> bytes:
    """Encodes an image by Pillow, converted to `mode` first."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    options = {"quality": 95} if form == "JPEG" else {}
    (picture.convert(mode) if mode else picture).save(file, form, **options)
    return file.getvalue()


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Twelve encoded images in every colour mode, and a test split without labels."""

    VERSION = tfds.core.Version("1.2.0")
    MODES = (("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples(0, 12, labelled=True),
            "validation": self._generate_examples(12, 16, labelled=True),
            "test": self._generate_examples(16, 18, labelled=False),
        }

    def _generate_examples(self, start, stop, labelled):
        for i in range(start, stop):
            form, mode = self.MODES[i % 4]
            label = i % 3 if labelled else -1
            encoded = encode(photo(i), form, mode)
            yield i, {"file_name": f"{i}", "image": encoded, "label": label}


class TinyText(tfds.core.GeneratorBasedBuilder):
    """Not a classification of images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": encode(photo(0))}


def prepare_tfds(builder_class: type, data_dir: pathlib.Path) -> pathlib.Path:
    """Prepares a builder, without TensorFlow; returns its directory."""
    builder = builder_class(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes uint8 data as an IDX file; compressed if the name says so."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: pathlib.Path, train: int = 12, test: int = 5, suffix: str = ".gz") -> None:
    """Writes MNIST's four files, 28x28, labels 0..9 in turn."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)


def write_folder(root: pathlib.Path, counts: dict[str, int], classes: tuple[str, ...]) -> None:
    """Writes root/<split>/<class>/<i>.png, `counts[split]` images in each class."""
    for split, count in counts.items():
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = photo(1000 * number + i, 30, 40)
                (root / split / name / f"{i}.png").write_bytes(encode(image, "PNG"))


def read(split) -> dict[str, int]:
    """The label of every record by its name, in order."""
    return {record.name: record.label for record in (split[i] for i in range(len(split)))}


def touch(root: pathlib.Path, *names: str) -> None:
    """Writes files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def opened(root: pathlib.Path, inside: str = "") -> tuple[dict, dict]:
    """The labels of each split, as the names of their classes; and what is left out."""
    source = open_source(f"folder:{root}{inside}")
    names = source.class_names
    splits = {
        split: {name: names[label] for name, label in read(records).items()}
        for split, records in source.splits.items()
    }
    return splits, dict(source.left_out)


def refused(root: pathlib.Path, match: str) -> None:
    """Opens a folder as a source, which must not be possible."""
    with pytest.raises(UserError, match=match):
        open_source(f"folder:{root}")


def memory_cache(images: np.ndarray, **fields) -> Cache:
    """A cache that is only in memory; label i is i modulo 7."""
    values = {
        "path": "",
        "name": "memory",
        "size": images.shape[1],
        "class_names": tuple("abcdefg"),
        "mean_image": images.mean(axis=0, dtype=np.float64).astype(np.float32),
        "eigenvalues": np.array([19.721, 37.094, 121.780]) ** 2,  # cuda-convnet2, input_meta
        "eigenvectors": np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0],
        "images": {"train": images},
        "labels": {"train": np.arange(len(images), dtype=np.int32) % 7},
        "fingerprint": "0" * 16,
    }
    return Cache(**(values | fields))


def position_images(count: int, size: int) -> np.ndarray:
    """uint8 (N, S, S, 3) whose pixel (y, x) of image i is the colour (i, y, x): crops tell all."""
    images = np.empty((count, size, size, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None]
    images[..., 1] = np.arange(size)[:, None]
    images[..., 2] = np.arange(size)
    return images


class Photos:
    """A split of photographs of changing sizes."""

    def __init__(self, count: int, seed: int = 0, classes: int = 3):
        self.count, self.seed, self.classes = count, seed, classes

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = photo(self.seed + index, 20 + index % 7, 20 + index % 5)
        return Record(f"photo {index}", index % self.classes, image)


def photos(train: int = 150, test: int = 5) -> Source:
    splits = {"train": Photos(train), "test": Photos(test, seed=500)}
    return Source("photos", ("a", "b", "c"), splits, f"{train} {test}")


def assert_same_files(first: pathlib.Path, second: pathlib.Path) -> None:
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
