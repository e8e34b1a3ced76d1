"""Sources: a real prepared TFDS directory, IDX files, the embedded images, the errors."""

import gzip
import json
import pathlib
import subprocess
import sys

import data_fixtures as fixtures
import numpy as np
import pytest
import tensorflow_datasets as tfds

from alexnet_jax.data import sources
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.data.sources import idx
from alexnet_jax.data.sources.record import label_of
from alexnet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    fixtures.prepare_tfds(fixtures.TinyPhotos, data_dir)
    fixtures.prepare_tfds(fixtures.TinyText, data_dir)
    return data_dir


def test_tfds_gives_the_encoded_images_and_leaves_out_unlabelled_splits(tfds_dir):
    source = sources.open_source("tfds:tiny_photos", str(tfds_dir))
    assert (source.name, source.class_names) == ("tfds:tiny_photos", ("ant", "bee", "cat"))
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 12,
        "validation": 4,
    }
    assert source.identity == "tiny_photos/1.2.0: train 12, validation 4"
    assert source.left_out == {"without labels": 2}
    records = [source.splits["train"][i] for i in range(12)]  # TFDS shuffles
    assert sorted(int(record.name) for record in records) == list(range(12))
    for record in records:
        i = int(record.name)
        form, mode = fixtures.TinyPhotos.MODES[i % 4]
        assert record.label == i % 3 and isinstance(record.label, int)
        assert record.content == fixtures.encode(fixtures.photo(i), form, mode)


@pytest.mark.parametrize(
    ("key", "name"), [("filename", "ü.png"), ("image/filename", "ü.png"), ("other", "train[0]")]
)
def test_tfds_names_by_the_file_name_or_else_the_index(tmp_path, key, name):
    with tfds.core.registered.skip_registration():

        class Named(fixtures.TinyText):
            def _info(self):
                features = {
                    key: tfds.features.Text(),
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _generate_examples(self):
                yield 0, {key: "ü.png", "image": fixtures.encode(fixtures.photo(0)), "label": 1}

    fixtures.prepare_tfds(Named, tmp_path)
    source = sources.open_source("tfds:named", str(tmp_path))
    assert source.splits["train"][0][:2] == (name, 1)


def test_tfds_of_cifar10_comes_back_pixel_by_pixel(tmp_path):
    """Its features as TFDS has them: PNGs of 32 pixels, which nothing resizes, and an id."""
    images = np.random.default_rng(7).integers(0, 256, (6, 32, 32, 3), np.uint8)
    with tfds.core.registered.skip_registration():

        class Cifar10(fixtures.TinyText):
            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=["airplane", "automobile"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {"train": self._some("train", 0, 4), "test": self._some("test", 4, 6)}

            def _some(self, split, first, last):
                for number in range(first, last):
                    name, png = f"{split}_{number:05}", fixtures.encode(images[number], "PNG")
                    yield name, {"id": name, "image": png, "label": number % 2}

    fixtures.prepare_tfds(Cifar10, tmp_path)
    cache = ensure_cache("tfds:cifar10", 32, str(tmp_path))
    for split, part in (("train", images[:4]), ("test", images[4:])):
        assert sorted(map(bytes, cache.images[split])) == sorted(map(bytes, part))
    assert cache.class_names == ("airplane", "automobile")


def test_tfds_damaged_files_are_named(tmp_path):
    directory = fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    (file,) = directory.glob("*train.array_record*")
    whole = bytearray(file.read_bytes())
    whole[5000:5100] = bytes(100)  # within one record or two
    file.write_bytes(whole)
    train = sources.open_source("tfds:tiny_photos", str(tmp_path)).splits["train"]
    errors = []
    for i in range(12):
        try:
            assert len(train[i].content) > 500
        except OSError as error:
            errors.append(str(error))
            assert errors[-1].startswith(f"train[{i}]: ")
    assert 1 <= len(errors) <= 2
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"tiny_photos in .* is damaged .*: delete it and run `tfds"
    ):
        sources.open_source("tfds:tiny_photos", str(tmp_path))


def test_tfds_versions_and_what_is_not_there(tfds_dir):
    assert len(sources.open_source("tfds:tiny_photos:1.2.0", str(tfds_dir)).splits["train"]) == 12
    for spec in ("tfds:tiny_photos:3.0.0", "tfds:imagenet2012", "tfds:tiny_photos/large"):
        with pytest.raises(UserError, match=r"not prepared under .*: run `tfds build .*TensorFlow"):
            sources.open_source(spec, str(tfds_dir))
    with pytest.raises(UserError, match=r"tfds build tiny_photos/large .*--data_dir='/no where'` "):
        sources.open_source("tfds:tiny_photos/large:2.0.0", "/no where")


def test_tfds_of_another_file_format_says_how_to_prepare_it(tmp_path):
    directory = fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    info = json.loads((directory / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"  # as most prepared datasets are; writing one needs TensorFlow
    (directory / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(
        UserError,
        match=r"not as ArrayRecord.*`tfds convert_format --dataset_version_dir="
        rf"{directory} --out_file_format=array_record` .*TensorFlow.*pip install tensorflow",
    ):
        sources.open_source("tfds:tiny_photos", str(tmp_path))


def test_tfds_without_labels_is_refused(tfds_dir):
    with pytest.raises(UserError, match=r"expected one ClassLabel feature, found \[\]"):
        sources.open_source("tfds:tiny_text", str(tfds_dir))


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx(tmp_path, suffix):
    fixtures.write_mnist(tmp_path, train=12, test=5, suffix=suffix)
    source = sources.open_source(f"idx:{tmp_path}")
    assert source.class_names == tuple("0123456789")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 12, "test": 5}
    expected = np.random.default_rng(3).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for i in range(12):
        name, label, content = source.splits["train"][i]
        np.testing.assert_array_equal(content, np.stack([expected[i]] * 3, axis=2))
        assert (name, label) == (f"train[{i}]", i % 10)
    same = source.identity
    assert sources.open_source(f"idx:{tmp_path}").identity == same
    fixtures.write_mnist(tmp_path, train=12, test=6, suffix=suffix)
    assert sources.open_source(f"idx:{tmp_path}").identity != same


def test_idx_errors(tmp_path):
    with pytest.raises(UserError, match="holds no train-images"):
        sources.open_source(f"idx:{tmp_path}")
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 1, 7])))
    with pytest.raises(UserError, match="not an IDX file of unsigned bytes"):
        idx.read_idx(path, 1)
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 7])))
    with pytest.raises(UserError, match=r"shape \(9,\), but 1 bytes"):
        idx.read_idx(path, 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        idx.read_idx(path, 1)
    content = bytearray(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 99, *range(99)])))
    content[12] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.gz is damaged"):
        idx.read_idx(path, 1)
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


def test_fashion_mnist_from_debian_where_the_tfds_copy_cannot_be_read(tmp_path, monkeypatch):
    """The copy of TFDS is there and comes first, but it is of another format, or broken off."""
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", str(tmp_path / "debian"))
    (tmp_path / "fashion_mnist" / "3.0.1.incomplete").mkdir(parents=True)
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        sources.open_source("fashion_mnist", str(tmp_path))
    fixtures.write_mnist(tmp_path / "debian")
    source = sources.open_source("fashion_mnist", str(tmp_path))
    assert source.class_names[0] == "T-shirt/top" and len(source.splits["train"]) == 12


def test_unknown_specs(tmp_path):
    with pytest.raises(UserError, match=f"did you mean folder:{tmp_path}"):
        sources.open_source(str(tmp_path))
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
    assert first.splits["test"][3] == again.splits["test"][3]
    assert first.splits["test"][3].name == "test[3]"
    assert capfd.readouterr() == ("", "")


def test_labels_without_reading(tfds_dir, tmp_path, monkeypatch):
    """`label_of` gives every record's label; only TFDS has to read it for that."""
    fixtures.write_mnist(tmp_path / "mnist")
    fixtures.write_folder(tmp_path / "folder", {"train": 2}, ("cat", "dog"))
    kinds = ("tfds:tiny_photos", f"idx:{tmp_path}/mnist", f"folder:{tmp_path}/folder")
    for spec in kinds:
        split = sources.open_source(spec, str(tfds_dir)).splits["train"]
        labels = [split[i].label for i in range(len(split))]
        if not spec.startswith("tfds"):
            monkeypatch.setattr(type(split), "__getitem__", lambda *_: pytest.fail("it was read"))
        assert [label_of(split, i) for i in range(len(split))] == labels


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
        "import sys, alexnet_jax.data, alexnet_jax.data.cache.store\n"
        "import alexnet_jax.data.augmentation, alexnet_jax.data.sources, alexnet_jax.data.dataset\n"
        "heavy = {'jax', 'grain', 'tensorflow_datasets', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
