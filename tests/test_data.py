"""Sources: every colour mode, a real prepared TFDS directory, folders, IDX files, the errors."""

import gzip
import json
import pathlib
import subprocess
import sys

import cv2
import data_fixtures as fixtures
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    fixtures.prepare_tfds(fixtures.TinyPhotos, data_dir)
    fixtures.prepare_tfds(fixtures.TinyText, data_dir)
    return data_dir


def test_decode_rgb_jpeg_as_opencv_does():
    encoded = fixtures.encode(fixtures.photo(1))
    expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(sources.decode_image(encoded), expected)


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "CMYK"), ("JPEG", "YCbCr"), ("WEBP", "RGB")])
def test_decode_keeps_colours_in_other_modes(form, mode):
    image = fixtures.photo(2)
    decoded = sources.decode_image(fixtures.encode(image, form, mode))
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - image).mean() < 6


def test_decode_grey_alpha_palette_and_16_bit():
    image = fixtures.photo(3)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_array_equal(
        sources.decode_image(fixtures.encode(image, "PNG", "L")), np.stack([grey] * 3, axis=2)
    )
    rgba = np.concatenate([image, np.full_like(image[..., :1], 9)], axis=2)
    np.testing.assert_array_equal(sources.decode_image(fixtures.encode(rgba, "PNG")), image)
    palette = Image.fromarray(image).quantize(16)
    np.testing.assert_array_equal(
        sources.decode_image(fixtures.encode(palette, "GIF")), np.asarray(palette.convert("RGB"))
    )
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    decoded = sources.decode_image(fixtures.encode(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(decoded[..., 1], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("keep", [0, 20, 700])
def test_decode_refuses_damaged_images(keep):
    with pytest.raises(OSError):
        sources.decode_image(fixtures.encode(fixtures.photo(4))[:keep])


def test_tfds_reads_every_mode_as_rgb_and_leaves_out_unlabelled_splits(tfds_dir):
    source = sources.open_source("tfds:tiny_photos", str(tfds_dir))
    assert source.class_names == ("ant", "bee", "cat")
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 12,
        "validation": 4,
    }
    labels = []
    originals = [fixtures.photo(i).astype(int) for i in range(12)]
    for i in range(12):  # TFDS shuffles by key, so find the original by its pixels
        image, label = source.splits["train"][i]
        assert image.shape == (40, 60, 3) and image.dtype == np.uint8
        distances = [np.abs(image - original).mean() for original in originals]
        found = int(np.argmin(distances))
        assert label == found % 3 == source.splits["train"].label(i)
        labels.append(found)
    assert sorted(labels) == list(range(12))


def test_tfds_versions_and_what_is_not_there(tfds_dir):
    assert len(sources.open_source("tfds:tiny_photos:1.2.0", str(tfds_dir)).splits["train"]) == 12
    for spec in ("tfds:tiny_photos:3.0.0", "tfds:imagenet2012", "tfds:tiny_photos/large"):
        with pytest.raises(UserError, match=r"not prepared under .*: run `tfds build .*TensorFlow"):
            sources.open_source(spec, str(tfds_dir))


def test_tfds_of_another_file_format_says_how_to_prepare_it(tmp_path):
    directory = fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    info = json.loads((directory / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"  # as most prepared datasets are; writing one needs TensorFlow
    (directory / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(
        UserError, match=r"not as ArrayRecord.*tfds build tiny_photos --file_format"
    ):
        sources.open_source("tfds:tiny_photos", str(tmp_path))


def test_tfds_without_labels_is_refused(tfds_dir):
    with pytest.raises(UserError, match=r"expected one ClassLabel feature, found \[\]"):
        sources.open_source("tfds:tiny_text", str(tfds_dir))


def test_folder(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 3, "val": 1}, ("dog", "cat"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("cat", "dog")
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "validation": 2,
    }
    image, label = source.splits["train"][3]  # the first dog
    np.testing.assert_array_equal(image, fixtures.photo(0, 30, 40))
    assert label == 1


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*train"):
        sources.open_source(f"folder:{tmp_path}")
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    fixtures.write_folder(tmp_path, {"validation": 1}, ("dog", "emu"))
    with pytest.raises(UserError, match=r"classes that .*train lacks: emu"):
        sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "validation" / "emu").rename(tmp_path / "validation" / "cat")
    fixtures.write_folder(tmp_path, {"val": 1}, ("dog",))
    with pytest.raises(UserError, match="both val and validation"):
        sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"not an image")
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(OSError, match=r"train/cat/0\.png"):
        sources.open_source(f"folder:{tmp_path}").splits["train"][0]


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx(tmp_path, suffix):
    fixtures.write_mnist(tmp_path, train=12, test=5, suffix=suffix)
    source = sources.open_source(f"idx:{tmp_path}")
    assert source.class_names == tuple("0123456789")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 12, "test": 5}
    expected = np.random.default_rng(3).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for i in range(12):
        image, label = source.splits["train"][i]
        np.testing.assert_array_equal(image, np.stack([expected[i]] * 3, axis=2))
        assert label == i % 10


def test_idx_errors(tmp_path):
    with pytest.raises(UserError, match="holds no train-images"):
        sources.open_source(f"idx:{tmp_path}")
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 1, 7])))
    with pytest.raises(UserError, match="not an IDX file of unsigned bytes"):
        sources.read_idx(path, 1)
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 7])))
    with pytest.raises(UserError, match=r"shape \(9,\), but 1 bytes"):
        sources.read_idx(path, 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        sources.read_idx(path, 1)
    fixtures.write_mnist(tmp_path)
    fixtures.write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    with pytest.raises(UserError, match="12 train images but 3 labels"):
        sources.open_source(f"idx:{tmp_path}")


def test_fashion_mnist_from_debian_or_a_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", str(tmp_path / "debian"))
    with pytest.raises(UserError, match=r"apt-get install dataset-fashion-mnist.*tfds build"):
        sources.open_source("fashion_mnist", str(tmp_path))
    fixtures.write_mnist(tmp_path / "debian")
    source = sources.open_source("fashion_mnist", str(tmp_path))
    assert source.class_names[9] == "Ankle boot" and len(source.splits["train"]) == 12


def test_unknown_specs(tmp_path):
    with pytest.raises(UserError, match="did you mean tfds:imagenet2012"):
        sources.open_source("imagenet2012", str(tmp_path))
    with pytest.raises(UserError, match=r"choose embedded/full\|tiny"):
        sources.open_source("embedded/huge", str(tmp_path))


def test_embedded_is_prepared_once_and_quietly(tmp_path, capfd):
    first = sources.open_source("embedded/tiny", str(tmp_path))
    assert {name: len(split) for name, split in first.splits.items()} == {
        "train": 200,
        "validation": 40,
        "test": 40,
    }
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")}
    again = sources.open_source("embedded/tiny", str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")} == files
    np.testing.assert_array_equal(first.splits["test"][3][0], again.splits["test"][3][0])
    assert capfd.readouterr() == ("", "")


def test_data_dir(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert sources.resolve_data_dir(None) == "/somewhere"
    assert sources.resolve_data_dir("/else") == "/else"
    assert sources.resolve_data_dir("gs://bucket/x") == "gs://bucket/x"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/ada")
    assert sources.resolve_data_dir(None) == "/home/ada/tensorflow_datasets"


def test_import_is_light():
    code = (
        "import sys, alexnet_jax.data, alexnet_jax.data.cache, alexnet_jax.data.augment\n"
        "heavy = {'jax', 'grain', 'tensorflow_datasets', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
