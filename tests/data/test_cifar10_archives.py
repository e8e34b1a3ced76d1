"""CIFAR-10's archives in both forms, packed and not, read back; and what is refused."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_jax.data import preparing, sources
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
EACH = 7  # images in a file


def drawn(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, (N, 32, 32, 3), and labels of a file."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (EACH, 32, 32, 3), np.uint8), rng.integers(0, 10, EACH)


def rows(images: np.ndarray) -> np.ndarray:
    """As the archives have them: all of a channel before the next."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def binary() -> dict[str, bytes]:
    """The files of the binary form."""
    files = {"batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode()}
    for number, name in enumerate(BATCHES):
        images, labels = drawn(number)
        records = np.concatenate([labels[:, None].astype(np.uint8), rows(images)], axis=1)
        files[f"{name}.bin"] = records.tobytes()
    return files


def python() -> dict[str, bytes]:
    """Those of the Python form, with the bytes for keys that Python 2 left."""
    meta = {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}
    files = {"batches.meta": pickle.dumps(meta, protocol=2)}
    for number, name in enumerate(BATCHES):
        images, labels = drawn(number)
        batch = {b"data": rows(images), b"labels": labels.tolist(), b"filenames": [b"a.png"] * EACH}
        files[name] = pickle.dumps(batch, protocol=2)
    return files


FORMS = {"bin": binary, "py": python}


def write(root: Path, form: str, packed: bool, files: dict[str, bytes] | None = None) -> Path:
    """An archive, or the directory that it unpacks into, in `root`."""
    inner = f"cifar-10-batches-{form}"
    files = FORMS[form]() if files is None else files
    if packed:
        path = root / f"cifar-10-{form}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{inner}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path
    (root / inner).mkdir()
    for name, content in files.items():
        (root / inner / name).write_bytes(content)
    return root


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_image_comes_back(form: str, packed: bool, tmp_path: Path) -> None:
    """Its pixels, its label and the names, in order."""
    source = sources.open_source(f"cifar10:{write(tmp_path, form, packed)}")
    assert source.class_names == NAMES
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 35, "test": 7}
    for split, files in (("train", range(5)), ("test", [5])):
        expected = [pair for number in files for pair in zip(*drawn(number), strict=True)]
        for index, (image, label) in enumerate(expected):
            record = source.splits[split][index]
            assert record.label == label == source.splits[split].label(index)
            np.testing.assert_array_equal(record.content, image)


def test_a_cache_is_made_of_it_and_its_change_is_noticed(tmp_path: Path) -> None:
    """Pixel by pixel where the size is that of the images; both forms are the same images."""
    root = write(tmp_path, "bin", False)
    cache = ensure_cache(f"cifar10:{root}", 32, str(tmp_path / "data"))
    images, labels = drawn(5)
    np.testing.assert_array_equal(cache.images["test"], images)
    np.testing.assert_array_equal(cache.labels["test"], labels)
    archives = [write(tmp_path, form, packed=True) for form in FORMS]
    assert len({sources.open_source(f"cifar10:{path}").identity for path in archives}) == 1
    path = root / "cifar-10-batches-bin" / "test_batch.bin"
    record = bytearray(path.read_bytes())
    record[3072] ^= 1  # the last pixel of the first image
    path.write_bytes(record)
    with pytest.raises(UserError, match="other images"):
        ensure_cache(f"cifar10:{root}", 32, str(tmp_path / "data"))


class Trap:
    """Runs a command when it is unpickled by who is not careful."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    """The trap is named, and not sprung."""
    trap = tmp_path / "sprung"
    files = python() | {"data_batch_3": pickle.dumps({b"data": Trap(trap)}, protocol=2)}
    with pytest.raises(UserError, match=r"data_batch_3 cannot be read .* it asks for .*system"):
        sources.open_source(f"cifar10:{write(tmp_path, 'py', True, files)}")
    assert not trap.exists()
    pickle.loads(files["data_batch_3"])
    assert trap.exists()  # it would have


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        (
            "bin",
            {"data_batch_2.bin": b"\0" * 3072},
            r"data_batch_2\.bin is damaged: its 3,072 bytes",
        ),
        ("bin", {"data_batch_2.bin": None}, r"lacks data_batch_2\.bin"),
        ("bin", {"batches.meta.txt": b"cat\ncat\n"}, "names of CIFAR-10's classes"),
        ("bin", {"batches.meta.txt": b"cat\ndog\n"}, "of 2 classes"),
        ("py", {"test_batch": b"not a pickle"}, "test_batch cannot be read"),
        ("py", {"test_batch": pickle.dumps([1, 2], 2)}, "test_batch is no batch"),
        ("py", {"test_batch": pickle.dumps({b"data": 1, b"labels": []}, 2)}, "is no batch"),
        ("bin", {"test_batch.bin": None}, "holds neither test_batch.bin nor test_batch"),
    ],
)
def test_what_is_refused(
    form: str, change: dict[str, bytes | None], words: str, tmp_path: Path
) -> None:
    """By the file's name, with the way out."""
    files = FORMS[form]() | change
    present = {name: content for name, content in files.items() if content is not None}
    with pytest.raises(UserError, match=words):
        sources.open_source(f"cifar10:{write(tmp_path, form, False, present)}")


def test_what_is_no_archive(tmp_path: Path) -> None:
    """A path that is not there, and a file of something else."""
    with pytest.raises(UserError, match="no such file or directory"):
        sources.open_source(f"cifar10:{tmp_path}/nothing")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match="cannot be read as a tar"):
        sources.open_source(f"cifar10:{tmp_path}/photo.jpg")


@pytest.mark.parametrize(("size", "config"), [(32, "cifar10:80sec"), (30, "fashion_mnist")])
def test_prepare_names_the_network_that_was_made_for_it(
    size: int, config: str, tmp_path: Path
) -> None:
    """Where the images have their own size."""
    source = f"cifar10:{write(tmp_path, 'bin', False)}"
    cache = ensure_cache(source, size, str(tmp_path / "data"))
    assert f" --config={config} " in preparing.training_command(cache)
