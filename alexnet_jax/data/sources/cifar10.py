"""CIFAR-10 as people have it: the archives of its authors, packed or not, in both of their forms.

    cifar-10-binary.tar.gz   cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin, batches.meta.txt
    cifar-10-python.tar.gz   cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}

The Python form is pickles. Of those nothing is executed: they may hold plain values and NumPy
arrays, or are refused.
"""

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from alexnet_jax.data.sources.record import Record, Source
from alexnet_jax.errors import UserError

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE * SIDE
TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)
DOWNLOAD = "https://www.cs.toronto.edu/~kriz/cifar.html"
PLAIN = {  # what an array in a pickle is made by
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Colours:
    """Images and labels in memory."""

    def __init__(self, split: str, images: np.ndarray, labels: np.ndarray):
        self._split, self._images, self._labels = split, images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        return Record(f"{self._split}[{index}]", self.label(index), self._images[index])

    def label(self, index: int) -> int:
        return int(self._labels[index])


def open_cifar10(path: str) -> Source:
    """Opens an archive, or the directory that was unpacked from one, or the one around that.

    Raises:
        UserError: a file is missing or damaged, or holds what an archive of CIFAR-10 does not.
    """
    path = os.path.realpath(os.path.expanduser(path))
    files = dict(_files(path))
    if "test_batch.bin" in files:
        names, read = _text_names(files), _binary
        suffix = ".bin"
    elif "test_batch" in files:
        names, read = _pickled_names(files), _pickled
        suffix = ""
    else:
        raise UserError(
            f"cifar10:{path} holds neither test_batch.bin nor test_batch: give an archive of "
            f"CIFAR-10 from {DOWNLOAD}, or the directory that was unpacked from it"
        )
    digest = hashlib.sha256()
    splits = {}
    for split, batches in (("train", TRAINING), ("test", TEST)):
        parts = [read(f"{name}{suffix}", _content(files, f"{name}{suffix}")) for name in batches]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if labels.max(initial=0) >= len(names):
            raise UserError(f"cifar10:{path}: a label is {labels.max()}, of {len(names)} classes")
        splits[split] = Colours(split, images, labels)
        digest.update(f"{split} {len(labels)}\n".encode() + labels.tobytes() + images.tobytes())
    return Source(
        name=f"cifar10:{path}", class_names=names, splits=splits, identity=digest.hexdigest()
    )


def _files(path: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields the files that are there by name, each with how to read it.

    Raises:
        UserError: there is no such path, or it is no archive.
    """
    if os.path.isfile(path):
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    found = archive.extractfile(member) if member.isreg() else None
                    if found is not None:
                        yield os.path.basename(member.name), partial(bytes, found.read())
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"cifar10:{path} cannot be read as a tar: {error}") from error
        return
    if not os.path.isdir(path):
        raise UserError(f"cifar10:{path}: there is no such file or directory")
    inner = [os.path.join(path, name) for name in ("cifar-10-batches-bin", "cifar-10-batches-py")]
    folder = next((place for place in inner if os.path.isdir(place)), path)
    for name in sorted(os.listdir(folder)):
        place = os.path.join(folder, name)
        if os.path.isfile(place):
            yield name, partial(_read, place)


def _read(place: str) -> bytes:
    with open(place, "rb") as file:
        return file.read()


def _content(files: dict[str, Callable[[], bytes]], name: str) -> bytes:
    if name not in files:
        raise UserError(f"this archive of CIFAR-10 lacks {name}: get it again from {DOWNLOAD}")
    return files[name]()


def _binary(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 32, 32, 3), and labels of a file of records: a label, then the red, the
    green and the blue of every pixel, row by row."""
    if not content or len(content) % (1 + PIXELS):
        raise UserError(
            f"{name} is damaged: its {len(content):,} bytes are no whole number of images of "
            f"{1 + PIXELS:,}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _images(records[:, 1:]), records[:, 0].astype(np.int64)


def _pickled(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The same of a file of the Python form."""
    batch = _unpickled(name, content)
    data, labels = (_entry(batch, key) for key in ("data", "labels"))
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (PIXELS,)
        or not isinstance(labels, list)
        or len(labels) != len(data)
        or not all(isinstance(label, int) and label >= 0 for label in labels)
    ):
        raise UserError(f"{name} is no batch of CIFAR-10: get it again from {DOWNLOAD}")
    return _images(data), np.array(labels, np.int64)


def _images(flat: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(flat.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1))


class _Plain(pickle.Unpickler):
    """Makes plain values and arrays, and looks nothing else up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(name: str, content: bytes) -> Any:
    try:
        return _Plain(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # of what a damaged pickle may do
        raise UserError(f"{name} cannot be read as a batch of CIFAR-10: {error}") from error


def _entry(batch: Any, key: str) -> Any:
    """Of a dictionary whose keys Python 2 wrote as bytes."""
    return batch.get(key.encode(), batch.get(key)) if isinstance(batch, dict) else None


def _text_names(files: dict[str, Callable[[], bytes]]) -> tuple[str, ...]:
    text = _content(files, "batches.meta.txt").decode(errors="replace")
    return _checked(text.split())


def _pickled_names(files: dict[str, Callable[[], bytes]]) -> tuple[str, ...]:
    meta = _unpickled("batches.meta", _content(files, "batches.meta"))
    names = _entry(meta, "label_names")
    words = names if isinstance(names, list) else []
    return _checked([w.decode(errors="replace") if isinstance(w, bytes) else str(w) for w in words])


def _checked(names: list[str]) -> tuple[str, ...]:
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"the names of CIFAR-10's classes are {names}: expected ten of them")
    return tuple(names)
