"""IDX files, the format of MNIST and Fashion-MNIST: grey images and labels as plain arrays."""

import gzip
import hashlib
import os
import pathlib
import struct
import zlib

import numpy as np

from alexnet_jax.data.sources.record import Record, Source
from alexnet_jax.errors import UserError


class ArraySplit:
    """Grey images and labels in memory; the images come out as RGB, the grey value repeated."""

    def __init__(self, split: str, images: np.ndarray, labels: np.ndarray):
        self._split = split
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        pixels = np.repeat(self._images[index][..., None], 3, axis=2)
        return Record(f"{self._split}[{index}]", int(self._labels[index]), pixels)

    def label(self, index: int) -> int:
        return int(self._labels[index])


def open_idx(folder: str) -> Source:
    """Opens the four IDX files of MNIST and its kin, `train-images-idx3-ubyte[.gz]` and so on.

    Raises:
        UserError: if a file is missing, is no IDX file, or its length or its labels do not fit.
    """
    folder = os.path.realpath(os.path.expanduser(folder))
    splits = {}
    classes = 0
    digest = hashlib.sha256()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels):
            raise UserError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
        splits[split] = ArraySplit(split, images, labels)
        classes = max(classes, 1 + int(labels.max(initial=0)))
        digest.update(f"{split} {len(labels)}\n".encode() + labels.tobytes() + images.tobytes())
    return Source(
        name=f"idx:{folder}",
        class_names=tuple(str(label) for label in range(classes)),
        splits=splits,
        identity=digest.hexdigest(),
    )


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
    except (OSError, EOFError, zlib.error) as error:
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
