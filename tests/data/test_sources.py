"""Sources: a real prepared TFDS directory, folders and lists of files, IDX files, the errors."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import data_fixtures as fixtures
import numpy as np
import pytest
import tensorflow_datasets as tfds

from alexnet_jax.data import sources
from alexnet_jax.data.sources import idx
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


def read(split):
    return {record.name: record.label for record in (split[i] for i in range(len(split)))}


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def refused(root, match):
    with pytest.raises(UserError, match=match):
        sources.open_source(f"folder:{root}")


def test_folder(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 3, "val": 1}, ("dog", "cat"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    source = sources.open_source(f"folder:{tmp_path}")
    assert (source.name, source.class_names) == (f"folder:{tmp_path}", ("cat", "dog"))
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "validation": 2,
    }
    content = (tmp_path / "train" / "dog" / "0.png").read_bytes()
    assert source.splits["train"][3] == ("train/dog/0.png", 1, content)
    assert isinstance(source.splits["train"][3].label, int)
    assert read(source.splits["validation"]) == {"val/cat/0.png": 0, "val/dog/0.png": 1}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("listed", [False, True])
def test_the_names_of_a_validation_split(tmp_path, name, listed):
    """Of its folder, or of its list."""
    touch(tmp_path, "train/cat/1.png", "train/dog/2.png", f"{name}/dog/3.png")
    if listed:
        (tmp_path / f"{name}.txt").write_text("dog/3.png dog\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.splits.keys() == {"train", "validation"}
    assert read(source.splits["validation"]) == {f"{name}/dog/3.png": 1}


def test_folder_takes_images_at_any_depth_in_one_order(tmp_path):
    names = ["B.JPG", "a-1.png", "a/2.jfif", "a/b/3.webp", "a.tiff", "ä.jpe"]
    touch(tmp_path, *(f"train/cat/{name}" for name in names))
    touch(tmp_path, "train/cat/.a.jpg", "train/cat/.git/b.jpg", "train/.x/c.jpg", "train/d.jpg")
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "linked").symlink_to(tmp_path / "train/cat/a")
    train = sources.open_source(f"folder:{tmp_path}").splits["train"]
    with pytest.raises(OSError, match=r"train/cat/gone\.png: No such file"):
        train[5]
    assert [train[i].name for i in range(len(train)) if i != 5] == [
        "train/cat/B.JPG", "train/cat/a-1.png", "train/cat/a.tiff", "train/cat/a/2.jfif",
        "train/cat/a/b/3.webp", "train/cat/ä.jpe",
        "train/linked/2.jfif", "train/linked/b/3.webp",
    ]  # fmt: skip


def test_folder_identity_is_that_of_names_and_labels(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 2}, ("cat", "dog"))
    identities = {sources.open_source(f"folder:{tmp_path}").identity}
    (tmp_path / "train/cat/0.png").write_bytes(b"other")
    assert {sources.open_source(f"folder:{tmp_path}").identity} == identities
    (tmp_path / "train/cat/0.png").rename(tmp_path / "train/cat/7.png")
    identities.add(sources.open_source(f"folder:{tmp_path}").identity)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    identities.add(sources.open_source(f"folder:{tmp_path}").identity)
    (tmp_path / "train").rename(tmp_path / "test")
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    identities.add(sources.open_source(f"folder:{tmp_path}").identity)
    assert len(identities) == 4 and all(len(identity) == 64 for identity in identities)


def test_a_class_without_training_images_is_refused(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    (tmp_path / "train" / "emu").mkdir()
    refused(tmp_path, "train/emu holds no images: fill or remove it")


def test_folder_errors(tmp_path):
    refused(tmp_path, r"there is no .*train, nor is there .*/<class>/\*\.jpg")
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    fixtures.write_folder(tmp_path, {"validation": 1}, ("dog", "emu"))
    refused(tmp_path, r"classes that .*train lacks: emu")
    (tmp_path / "validation" / "emu").rename(tmp_path / "validation" / "cat")
    fixtures.write_folder(tmp_path, {"val": 1}, ("dog",))
    refused(tmp_path, "both val and validation")
    (tmp_path / "val").rename(tmp_path / "other")
    source = sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "train/cat/0.png").unlink()
    with pytest.raises(OSError, match=r"train/cat/0\.png: No such file"):
        source.splits["train"][0]
    (tmp_path / "train").rename(tmp_path / "training")
    refused(tmp_path, r"there is no .*train$")
    refused(tmp_path / "nowhere", "there is no ")
    (tmp_path / "training").rename(tmp_path / "train")
    (tmp_path / "train/loop").symlink_to(tmp_path / "train/loop")
    refused(tmp_path, "cannot be read: .* symbolic links: .*loop")


def test_folder_whose_names_are_not_utf_8_is_refused(tmp_path):
    touch(tmp_path, "train/cat/1.png")
    file = os.fsencode(tmp_path) + b"/train/cat/\xe4.png"
    try:
        with open(file, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no such names")
    refused(tmp_path, r"not UTF-8: .*train/cat/\\udce4\.png")


def test_folder_without_splits_is_all_training(tmp_path):
    touch(tmp_path, "dog/1.jpg", "dog/more/2.jpg", "cat/3.jpg", "notes/readme.txt")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("cat", "dog")
    assert source.splits.keys() == {"train"}
    assert read(source.splits["train"]) == {"cat/3.jpg": 0, "dog/1.jpg": 1, "dog/more/2.jpg": 1}
    # One level too high, or another word for a split: what would be classes are none.
    touch(tmp_path, "Training/cat/1.jpg")
    refused(tmp_path, r"expected .*/train/<class>.*Training has images in subfolders only")
    (tmp_path / "Training").rename(tmp_path / "test")
    refused(tmp_path, r"there is no .*train$")


def test_folder_with_an_order_of_classes(tmp_path):
    touch(tmp_path, "train/n3/1.jpg", "train/n1/2.jpg", "train/n2/3.jpg", "val/n1/4.jpg")
    text = "\ufeff# as in ILSVRC2010_ID\r\nn2  tench, Tinca tinca\r\n\r\n  n3\r\nn1\tgoldfish\r\n"
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", newline="")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("n2", "n3", "n1")
    assert list(read(source.splits["train"]).items()) == [
        ("train/n2/3.jpg", 0),
        ("train/n3/1.jpg", 1),
        ("train/n1/2.jpg", 2),
    ]
    assert read(source.splits["validation"]) == {"val/n1/4.jpg": 2}
    for text, error in (
        ("n1\nn2\n", r"train has classes that .*classes\.txt lacks: n3$"),
        ("n1\nn2\nn3\nn4\n", r"classes\.txt names classes without a folder in .*train: n4$"),
        ("n1\n\nn2\nn1\n", r"classes\.txt:4: class n1 is listed twice"),
    ):
        (tmp_path / "classes.txt").write_text(text)
        refused(tmp_path, error)
    (tmp_path / "classes.txt").write_bytes(b"n1\nn\xe4\n")
    refused(tmp_path, r"classes\.txt is not UTF-8")


def test_flat_folders_need_a_list(tmp_path):
    """ILSVRC-2010's form: training by class, validation and test flat."""
    touch(tmp_path, "train/n2/1.JPEG", "train/n1/2.JPEG", "val/a b.JPEG", "val/c.JPEG", "x/d.JPEG")
    refused(tmp_path, r"val has images, but not in class folders: list them .*val\.txt")
    (tmp_path / "val.txt").write_text("./c.JPEG 1\n\na b.JPEG\tn1\n")
    (tmp_path / "test.txt").write_text("x/d.JPEG 0\n")  # there is no folder `test`
    source = sources.open_source(f"folder:{tmp_path}")
    assert list(read(source.splits["validation"]).items()) == [
        ("val/c.JPEG", 1),
        ("val/a b.JPEG", 0),
    ]
    assert source.splits["test"][0] == ("x/d.JPEG", 0, b"x/d.JPEG")
    (tmp_path / "classes.txt").write_text("n2\nn1\n")
    assert read(sources.open_source(f"folder:{tmp_path}").splits["validation"]) == {
        "val/c.JPEG": 1,
        "val/a b.JPEG": 1,
    }
    (tmp_path / "validation.txt").write_text("")
    refused(tmp_path, "both val and validation")


def test_a_training_list_names_the_classes(tmp_path):
    touch(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "train.txt").write_text("1.png dog\n2.png cat\n3.png 3\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("3", "cat", "dog")
    assert read(source.splits["train"]) == {"1.png": 2, "2.png": 1, "3.png": 0}
    (tmp_path / "train.txt").write_text("1.png 1\n2.png 0\n3.png 1\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("0", "1")
    assert read(source.splits["train"]) == {"1.png": 1, "2.png": 0, "3.png": 1}
    (tmp_path / "train.txt").write_text("1.png 1\n2.png 2\n3.png 3\n")
    refused(tmp_path, r"no image has label 0, but labels go up to 3: they count from 0")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert sources.open_source(f"folder:{tmp_path}").class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("1.png", r"expected 'relative/path label', found '1\.png'"),
        ("1.png 3", r"label 3: expected 0 to 2 \(labels count from 0\) or the name .*train"),
        ("1.png -1", "label -1: expected 0 to 2"),
        ("1.png emu", r"label emu: expected 0 to 2"),
        ("1.png 1", "1 is the number of one class and the name of another"),
        ("0.png 0", r"0\.png is listed twice"),
        ("./0.png 0", r"\./0\.png is listed twice"),
        ("2.png 0", r"there is no .*/val/2\.png"),
        ("../train/1/1.png 0", r"\.\./train/1/1\.png leads out of .*/val"),
        ("/etc/passwd 0", "/etc/passwd leads out of"),
    ],
)
def test_lists_are_refused_by_line(tmp_path, line, error):
    touch(tmp_path, "train/1/1.png", "train/2/2.png", "train/10/3.png", "val/0.png", "val/1.png")
    (tmp_path / "val.txt").write_text(f"0.png 0\n\n{line}\n")
    refused(tmp_path, rf"val\.txt:3: {error}")


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
