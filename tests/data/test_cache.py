"""The cache: opened, verified, made on the way to training where it is small, refused where not."""

import errno
import json
import os
import pathlib
import re
import shlex
import shutil

import data_fixtures as fixtures
import numpy as np
import pytest
from data_fixtures import photos

from alexnet_jax import prepare
from alexnet_jax.data import dataset, decoding, sources
from alexnet_jax.data.cache import building, store
from alexnet_jax.errors import UserError


def test_ensure_cache_makes_once_and_finds_it_again(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 2}, ("cat", "dog"))
    first = dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    (tmp_path / "pets").rename(tmp_path / "elsewhere")
    again = dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    assert first.fingerprint == again.fingerprint and first.path == again.path
    moved = dataset.ensure_cache(f"folder:{tmp_path}/elsewhere", 16, str(tmp_path))
    assert moved.fingerprint == first.fingerprint and moved.path != first.path
    other = dataset.ensure_cache(f"folder:{tmp_path}/elsewhere", 20, str(tmp_path))
    assert other.fingerprint != first.fingerprint


def test_names():
    assert dataset.cache_name("tfds:imagenet2012:5.1.0", 256) == "imagenet2012-5.1.0-256"
    assert dataset.cache_name("fashion_mnist", 32, 5000) == "fashion_mnist-32-holdout5000"
    assert dataset.cache_name("fashion_mnist", 32, 0.1) == "fashion_mnist-32-holdout0.1"
    assert dataset.cache_name("x", 32, 1234567) != dataset.cache_name("x", 32, 1234568)
    assert dataset.cache_name("x", 32, 0.12345678) != dataset.cache_name("x", 32, 0.12345679)
    assert dataset.cache_name("embedded", 128) == dataset.cache_name("embedded/full", 128)
    assert dataset.cache_name("embedded/hard", 128) == "embedded-hard-2.0.0-128"
    name = dataset.cache_name("folder:/data/my pets/", 64)
    assert name.startswith("my-pets-") and name != dataset.cache_name("folder:/my pets", 64)


def test_a_large_dataset_is_left_to_its_own_command(tmp_path, monkeypatch):
    fixtures.write_folder(tmp_path / "pets", {"train": 20}, ("cat", "dog"))
    monkeypatch.setattr(dataset, "LARGE", 40 * 16 * 16 * 3 - 1)
    spec = f"folder:{tmp_path}/pets"
    with pytest.raises(UserError, match=r"40 images, 0\.0 MB, about 1 s on \d+ core") as said:
        dataset.ensure_cache(spec, 16, str(tmp_path / "my data"), holdout=4)
    command = re.search(r"python -m alexnet_jax\.prepare (.*)", str(said.value))[1]
    flags = dict(flag.removeprefix("--").split("=") for flag in shlex.split(command))
    assert flags["source"] == spec and flags["size"] == "16" and flags["holdout"] == "4"
    assert not (tmp_path / "my data").exists()
    # What the command makes is found.
    source = sources.open_source(spec)
    made = building.make_cache(source, 16, flags["out"], holdout=4)
    found = dataset.ensure_cache(spec, 16, str(tmp_path / "my data"), holdout=4)
    assert found.fingerprint == made.fingerprint


def test_a_cache_elsewhere(tmp_path):
    building.make_cache(photos(9), 16, str(tmp_path / "c"))
    cache = dataset.ensure_cache("tfds:not_there", 16, "/not/there", path=str(tmp_path / "c"))
    assert cache.name == "photos"
    with pytest.raises(UserError, match=r"16 pixels: set --config\.data\.size=16"):
        dataset.ensure_cache("tfds:not_there", 256, path=str(tmp_path / "c"))
    with pytest.raises(UserError, match=r"is no cache"):
        dataset.ensure_cache("tfds:not_there", 256, path=str(tmp_path / "d"))
    with pytest.raises(UserError, match=r"holdout=3: .* when it was prepared"):
        dataset.ensure_cache("tfds:not_there", 16, holdout=3, path=str(tmp_path / "c"))


def test_a_bad_image_is_named(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 40}, ("cat", "dog"))
    (tmp_path / "pets" / "train" / "dog" / "17.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(UserError, match=r"train/dog/17\.png .*fix it"):
        dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))


def test_directories_that_cannot_be_used(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 1}, ("cat", "dog"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*config\.data\.dir"):
        dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path / "file"))
    with pytest.raises(UserError, match="give a local directory"):
        dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, "gs://bucket/data")


def test_damaged_caches_are_noticed(tmp_path):
    path = tmp_path / "c"
    building.make_cache(photos(9), 16, str(path))
    images = (path / "train.images.npy").read_bytes()
    (path / "train.images.npy").write_bytes(images[:-100])
    with pytest.raises(UserError, match=r"damaged.*delete it"):
        store.open_cache(str(path))
    (path / "train.images.npy").write_bytes(images)
    meta = json.loads((path / "meta.json").read_text())
    counts = {"counts": {"train": 8, "test": 5}}
    (path / "meta.json").write_text(json.dumps(meta | counts))
    with pytest.raises(UserError, match="expected 8 images"):
        store.open_cache(str(path))
    (path / "meta.json").write_text(json.dumps(meta | {"format": 0}))
    with pytest.raises(UserError, match="format 0, expected"):
        store.open_cache(str(path))
    (path / "meta.json").write_text(json.dumps({"format": store.FORMAT}))
    with pytest.raises(UserError, match="damaged"):
        store.open_cache(str(path))
    for other in ({"by": "another program"}, []):
        (path / "meta.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match=r"of something else.*give another dir") as said:
            store.open_cache(str(path))
        assert "delete" not in str(said.value)
    (path / "meta.json").unlink()
    with pytest.raises(UserError, match=r"no cache \(.*meta\.json is missing"):
        store.open_cache(str(path))


def test_verification_names_what_is_damaged(tmp_path):
    cache = building.make_cache(photos(9), 16, str(tmp_path / "c"))
    store.verify(cache)
    with (tmp_path / "c" / "train.images.npy").open("r+b") as file:
        file.seek(building.HEADER + 7 * 16 * 16 * 3 + 5)
        file.write(b"\x00" if cache.images["train"][7].flat[5] else b"\x01")
    damaged = store.open_cache(str(tmp_path / "c"))  # its size is right
    with pytest.raises(UserError, match=r"1 of 14 images .*\(train: photo 7\)"):
        store.verify(damaged)
    np.save(tmp_path / "c" / "test.labels.npy", np.array([0, 1, 2, 0, 2], np.int32))
    with pytest.raises(UserError, match=r"2 of 14 images .*test: photo 4"):
        store.verify(store.open_cache(str(tmp_path / "c")))
    rows = (tmp_path / "c" / "train.csv").read_text()
    (tmp_path / "c" / "train.csv").write_text(rows.replace("photo 3", "photo 4"))
    with pytest.raises(UserError, match=r"train\.csv is not as it was written"):
        store.verify(store.open_cache(str(tmp_path / "c")))
    (tmp_path / "c" / "train.csv").unlink()
    with pytest.raises(UserError, match=r"train\.csv is missing"):
        store.verify(store.open_cache(str(tmp_path / "c")))


@pytest.mark.parametrize("damage", ["mean", "names", "labels"])
def test_what_is_read_at_once_is_verified_at_once(tmp_path, damage):
    path = tmp_path / "c"
    cache = building.make_cache(photos(9), 16, str(path))
    if damage == "mean":
        np.save(path / "mean_image.npy", cache.mean_image + 1)
    elif damage == "names":
        meta = (path / "meta.json").read_text()
        (path / "meta.json").write_text(meta.replace('"b"', '"bee"'))
    else:
        np.save(path / "train.labels.npy", np.full(9, 3, np.int32))
    with pytest.raises(UserError, match=r"is damaged .*(not as it was written|labels of classes)"):
        store.open_cache(str(path))


def test_a_directory_without_its_meta_names_the_way_out(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 2}, ("cat", "dog"))
    made = dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    pathlib.Path(made.path, "meta.json").unlink()
    with pytest.raises(UserError, match=r"meta\.json is missing\): if it was one, delete it") as e:
        dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    assert made.path in str(e.value)
    shutil.rmtree(made.path)
    pathlib.Path(made.path).mkdir()  # an empty one is none
    again = dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    assert again.fingerprint == made.fingerprint


def test_a_cache_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    building.make_cache(photos(9), 16, str(tmp_path / "c"))

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "train.images.npy")

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(UserError, match=r"c cannot be read \(.*Input/output error") as error:
        store.open_cache(str(tmp_path / "c"))
    assert "damaged" not in str(error.value) and "delete" not in str(error.value)


def test_a_path_that_is_no_text_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "load", None)  # no image is looked at
    place = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9")
    fixtures.write_folder(pathlib.Path(place), {"train": 2}, ("cat", "dog"))
    (tmp_path / "link").symlink_to(place)
    good = tmp_path / "good"
    fixtures.write_folder(good, {"train": 2}, ("cat", "dog"))
    for spec, data_dir in (
        (f"folder:{place}", str(tmp_path)),
        (f"folder:{tmp_path}/link", str(tmp_path)),
        (f"folder:{good}", place),
    ):
        for path in (None, "none"):
            with pytest.raises(UserError, match=r"caf.*not UTF-8: rename ") as error:
                dataset.ensure_cache(spec, 16, data_dir, path=path)
            str(error.value).encode()
    with pytest.raises(UserError, match=r"caf\\udce9.*not UTF-8"):
        building.make_cache(sources.open_source(f"folder:{good}"), 16, f"{place}/c")
    with pytest.raises(SystemExit):
        prepare.main([f"--source=folder:{place}", f"--out={tmp_path}/c"])
    with pytest.raises(SystemExit):
        prepare.main([f"--source=folder:{good}", f"--out={place}/c"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "link") == sorted(
        [os.path.basename(place), "good"]
    )


def test_images_wanted_next_are_read_in_whole_pages(monkeypatch):
    """Every byte of theirs and no other page; arrays in memory are left alone."""

    class Mapped:
        def __init__(self):
            self.asked = []

        def madvise(self, advice, start, length):
            assert advice == store.mmap.MADV_WILLNEED
            assert start % store.mmap.PAGESIZE == 0
            self.asked.append(range(start, start + length))

    class Images(list):
        offset, base = store.HEADER, Mapped()

    monkeypatch.setattr(store.mmap, "mmap", Mapped)
    images = Images(np.zeros((3, 64, 64, 3), np.uint8))
    store.read_soon(images, np.array([2, 0]))
    size, page = images[0].nbytes, store.mmap.PAGESIZE
    for row, asked in zip([2, 0], images.base.asked, strict=True):
        first, end = store.HEADER + row * size, store.HEADER + (row + 1) * size
        assert first - page < asked.start <= first and asked.stop == end
    store.read_soon(np.zeros((3, 8, 8, 3), np.uint8), [0])
    store.read_soon(object(), [0])
    assert len(images.base.asked) == 2
