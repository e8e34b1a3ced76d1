"""A cache and its source: what changed is noticed where the cache is opened, and taken over."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import time
from unittest import mock

import cv2
import data_fixtures as fixtures
import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_fixtures import assert_same_files, encode, photo
from test_ilsvrc import LAYOUT, write_tars

from alexnet_jax import prepare
from alexnet_jax.data import dataset, decoding, sources
from alexnet_jax.data.cache import building, estimate, freshness, listing, splits
from alexnet_jax.data.cache.request import Request
from alexnet_jax.data.sources import embedded, ilsvrc
from alexnet_jax.errors import UserError

SPLITS = ("train", "test")
COUNT = 8  # training images of a class


@pytest.fixture
def pets(tmp_path) -> pathlib.Path:
    """A folder of 16 + 4 images."""
    fixtures.write_folder(tmp_path / "pets", {"train": COUNT, "test": 2}, ("cat", "dog"))
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """Grows by one with every image that is decoded."""
    load, calls = decoding.load, []
    monkeypatch.setattr(decoding, "load", lambda *a: (calls.append(a[0]), load(*a))[1])
    return calls


def opened(pets: pathlib.Path, elsewhere: bool = False):
    """The cache as training and evaluation open it; made first where it is not there."""
    if not elsewhere:
        return dataset.ensure_cache(f"folder:{pets}", 16, str(pets.parent))
    out = pets.parent / "elsewhere"
    if not out.exists():
        building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(out))
    return dataset.ensure_cache("tfds:no_matter", 16, str(pets.parent), path=str(out))


def rewrite(path: pathlib.Path, content: bytes, later: int = 0) -> None:
    """Gives a file other content, and a time that many seconds later than it had."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before, before + later * 10**9))


def replace(path: pathlib.Path, content: bytes) -> None:
    """Puts another file of the same time in a file's place."""
    other = path.with_name("other")
    other.write_bytes(content)
    shutil.copystat(path, other)
    other.replace(path)


def same_size(path: pathlib.Path) -> bytes:
    """Another picture of exactly as many bytes."""
    size = path.stat().st_size
    other = encode(photo(77, 8, 8), "PNG")
    assert len(other) <= size
    return other + bytes(size - len(other))  # what follows a PNG file's end is no matter


CHANGES = {
    "added": (lambda pets: shutil.copy(pets / "train/cat/1.png", pets / "train/cat/x.png"),
              r"1 image added \(train/cat/x\.png\) since", 1),
    "added to test": (lambda pets: shutil.copy(pets / "test/cat/1.png", pets / "test/cat/x.png"),
                      r"added \(test/cat/x\.png\)", 1),
    "removed": (lambda pets: (pets / "train/cat/3.png").unlink(),
                r"1 image removed \(train/cat/3\.png\)", 0),
    "renamed": (lambda pets: (pets / "train/cat/3.png").rename(pets / "train/cat/x.png"),
                r"1 image added \(train/cat/x\.png\), 1 removed \(train/cat/3\.png\)", 1),
    "moved to another class": (
        lambda pets: (pets / "train/cat/3.png").rename(pets / "train/dog/33.png"),
        r"added \(train/dog/33\.png\).* removed", 1),
    "replaced": (lambda pets: rewrite(pets / "train/dog/2.png", encode(photo(99), "PNG")),
                 r"1 image changed \(train/dog/2\.png\)", 1),
    "replaced by as many bytes": (
        lambda pets: rewrite(pets / "train/dog/2.png", same_size(pets / "train/dog/2.png"), 5),
        r"1 image changed \(train/dog/2\.png\)", 1),
    "replaced by as many bytes of the same time": (
        lambda pets: rewrite(pets / "train/dog/2.png", same_size(pets / "train/dog/2.png")),
        r"1 image changed \(train/dog/2\.png\)", 1),
    "another file of as many bytes and the same time": (
        lambda pets: replace(pets / "train/dog/2.png", same_size(pets / "train/dog/2.png")),
        r"1 image changed \(train/dog/2\.png\)", 1),
    "another classes.txt": (lambda pets: (pets / "classes.txt").write_text("dog\ncat\n"),
                            r"the classes are in another order", 0),
    "another class": (
        lambda pets: [shutil.copytree(pets / s / "dog", pets / s / "emu") for s in SPLITS],
        r"3 classes instead of 2, new emu; 10 images added", 10),
    "no more a class": (
        lambda pets: (shutil.copytree(pets / "train/dog", pets / "train/emu"),
                      [shutil.rmtree(pets / s / "dog") for s in SPLITS]),
        r"2 classes instead of 2, new emu and no dog", 8),
}  # fmt: skip


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_said_and_made_again(pets, decoded, change, elsewhere, monkeypatch):
    """The message's command does it, and decodes only what has changed."""
    monkeypatch.setattr(estimate, "estimate", lambda *_: "what it takes")  # decodes a few as well
    act, message, expected = CHANGES[change]
    path = opened(pets, elsewhere).path
    act(pets)
    with pytest.raises(UserError, match=message) as said:
        opened(pets, elsewhere)
    assert "\n" not in str(said.value) and path in str(said.value)
    command = re.search(r"`python -m alexnet_jax\.prepare ([^`]*)`", str(said.value))[1]
    refused = [flag for flag in shlex.split(command) if flag != "--overwrite"]
    with pytest.raises(SystemExit):  # not without being asked
        prepare.main(refused)
    decoded.clear()
    assert prepare.main(shlex.split(command)) == 0
    assert len(set(decoded)) <= expected <= len(decoded)  # some are compared before
    cache = opened(pets, elsewhere)
    fresh = building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(pets / "../fresh"))
    assert cache.path == path and cache.fingerprint == fresh.fingerprint
    assert_same_files(pathlib.Path(path), pathlib.Path(fresh.path))
    assert not list(pathlib.Path(path).parent.glob("*.earlier*"))
    assert not list(pathlib.Path(path).parent.glob("*.lock"))


def test_only_what_changed_is_decoded(pets, decoded):
    path = opened(pets).path
    rewrite(pets / "train/dog/2.png", encode(photo(99), "PNG"))
    source = sources.open_source(f"folder:{pets}")
    decoded.clear()
    cache = building.make_cache(source, 16, path, overwrite=True)
    assert len(decoded) == 1
    np.testing.assert_array_equal(
        cache.images["train"][COUNT + 2], decoding.load(encode(photo(99), "PNG"), 16)
    )
    with pytest.raises(UserError, match=r"asked for is .* at 20 pixels"):
        building.make_cache(source, 20, path)
    assert building.make_cache(source, 20, path, overwrite=True).size == 20


def test_what_is_not_this_programs_own_stays(pets):
    """Where an old cache would be moved to, and what a user has put into one."""
    path = pathlib.Path(opened(pets).path)
    other = path.with_name(f"{path.name}.earlier-1")
    other.mkdir()
    for directory in (path, other):
        (directory / "thesis.txt").write_text("my only copy")
        (directory / "results.csv").write_text("mine")
    shutil.copy(pets / "train/cat/1.png", pets / "train/cat/x.png")
    building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(path), overwrite=True)
    kept = path.with_name(f"{path.name}.earlier-2")  # but for the cache's own files
    for directory in (kept, other):
        assert sorted(p.name for p in directory.iterdir()) == ["results.csv", "thesis.txt"]
    assert not (path / "thesis.txt").exists()


def test_killed_while_the_old_cache_gives_way(pets, decoded, monkeypatch):
    """Between its two names the new one is complete, and found by the next start."""
    path = pathlib.Path(opened(pets).path)
    shutil.copy(pets / "train/cat/1.png", pets / "train/cat/x.png")
    source = sources.open_source(f"folder:{pets}")
    rename = os.rename

    def stop(before, after):
        if str(before).endswith(".partial"):
            raise KeyboardInterrupt
        rename(before, after)

    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        building.make_cache(source, 16, str(path), overwrite=True)
    monkeypatch.setattr(os, "rename", rename)
    assert not path.exists()
    decoded.clear()
    assert len(opened(pets).images["train"]) == 2 * COUNT + 1
    assert not decoded
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_has_not_changed_costs_nothing_and_is_not_mentioned(pets, decoded, capsys):
    first = opened(pets)
    decoded.clear()
    assert opened(pets).fingerprint == first.fingerprint
    assert decoded == [] and capsys.readouterr().out == ""


def test_files_written_again_with_the_same_pixels_are_the_same(pets, decoded, capsys, monkeypatch):
    """As a copy of them is; where they are too many to be compared, the times decide."""
    opened(pets)
    for path in (pets / "train" / "cat").iterdir():
        rewrite(path, path.read_bytes(), 5)
    decoded.clear()
    opened(pets)
    assert len(decoded) == COUNT and capsys.readouterr().out == ""
    monkeypatch.setattr(freshness, "TOUCHED", COUNT - 1)
    with pytest.raises(UserError, match=r"8 images changed \(train/cat/0\.png, .*, \.\.\.\)"):
        opened(pets)


def test_a_dataset_that_was_copied_is_the_same(pets, decoded, capsys, monkeypatch):
    """With its times; where its files are too many to be compared, one replaced by another of the
    same size and time passes unnoticed."""
    first = opened(pets)
    shutil.move(pets, pets.parent / "before")
    shutil.copytree(pets.parent / "before", pets)
    decoded.clear()
    assert opened(pets).fingerprint == first.fingerprint
    assert len(decoded) == 2 * (COUNT + 2)
    monkeypatch.setattr(freshness, "TOUCHED", COUNT)
    rewrite(pets / "train/dog/2.png", same_size(pets / "train/dog/2.png"))
    decoded.clear()
    assert opened(pets).fingerprint == first.fingerprint
    assert decoded == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_cache_outlives_its_source(pets, capsys, elsewhere):
    first = opened(pets, elsewhere)
    pets.rename(pets.parent / "gone")
    assert opened(pets, elsewhere).fingerprint == first.fingerprint
    said = capsys.readouterr().out
    assert (
        said == f"{first.path} is used although its source, folder:{pets}, is not here any more\n"
    )


def test_a_source_that_has_become_unusable_is_not_gone(pets):
    first = opened(pets)
    (pets / "train" / "emu").mkdir()
    with pytest.raises(
        UserError, match=r"has changed since and cannot be used as it is: .*emu"
    ) as e:
        opened(pets)
    assert first.path in str(e.value)


def test_a_cache_can_be_kept_as_it_is(pets, capsys):
    """As the message says: without its list it is used, and a line tells."""
    first = opened(pets)
    (pets / "train/cat/3.png").unlink()
    with pytest.raises(UserError, match=r"or delete (\S*list\.csv) to go on") as said:
        opened(pets)
    os.unlink(re.search(r"or delete (\S*)", str(said.value))[1])
    assert opened(pets).fingerprint == first.fingerprint
    assert capsys.readouterr().out.count("\n") == 1


def test_other_versions_of_the_libraries_are_said(pets, capsys, monkeypatch, decoded):
    first = opened(pets)
    monkeypatch.setattr(cv2, "__version__", "99.1")
    assert opened(pets).fingerprint == first.fingerprint
    said = capsys.readouterr().out
    assert "was made with OpenCV" in said and "(here 99.1)" in said and said.count("\n") == 1
    decoded.clear()
    command = re.search(r"`python -m alexnet_jax\.prepare ([^`]*)`", said)[1]
    prepare.main(shlex.split(command))
    assert len(decoded) >= 20  # none is taken over
    capsys.readouterr()
    opened(pets)
    assert capsys.readouterr().out == ""


def as_of_earlier_versions(path: pathlib.Path) -> None:
    """Takes from a cache what earlier versions of the program did not write."""
    meta = json.loads((path / "meta.json").read_text())
    del meta["origin"]
    (path / "meta.json").write_text(json.dumps(meta))
    (path / listing.FILE).unlink()


def test_caches_of_earlier_versions_go_on_working(pets, capsys):
    first = opened(pets)
    as_of_earlier_versions(pathlib.Path(first.path))
    assert opened(pets).fingerprint == first.fingerprint
    assert capsys.readouterr().out == ""
    (pets / "train/cat/3.png").unlink()
    assert opened(pets).fingerprint == first.fingerprint
    said = capsys.readouterr().out
    assert "has no list.csv" in said and "--overwrite" in said and said.count("\n") == 1


def test_a_newer_version_of_a_tfds_dataset(tmp_path, monkeypatch, capsys):
    fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    first = dataset.ensure_cache("tfds:tiny_photos", 16, str(tmp_path))
    capsys.readouterr()
    assert dataset.ensure_cache("tfds:tiny_photos", 16, str(tmp_path)).path == first.path
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(fixtures.TinyPhotos, "VERSION", type(fixtures.TinyPhotos.VERSION)("1.3.0"))
    fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    with pytest.raises(UserError, match=r"was tiny_photos/1\.2\.0: .* is tiny_photos/1\.3\.0") as e:
        dataset.ensure_cache("tfds:tiny_photos", 16, str(tmp_path))
    command = re.search(r"`python -m alexnet_jax\.prepare ([^`]*)`", str(e.value))[1]
    assert prepare.main(shlex.split(command)) == 0
    dataset.ensure_cache("tfds:tiny_photos", 16, str(tmp_path))


def test_imagenets_tars_are_not_indexed_again(tmp_path, monkeypatch):
    """That takes minutes; their sizes tell enough."""
    monkeypatch.setattr(ilsvrc, "official_layout", lambda: LAYOUT)
    (tmp_path / "tars").mkdir()
    write_tars(tmp_path / "tars")
    spec = f"ilsvrc:{tmp_path}/tars"
    first = dataset.ensure_cache(spec, 16, str(tmp_path))
    opened = mock.Mock(side_effect=ilsvrc.open_ilsvrc)
    monkeypatch.setattr(ilsvrc, "open_ilsvrc", opened)
    assert dataset.ensure_cache(spec, 16, str(tmp_path)).fingerprint == first.fingerprint
    assert not opened.called
    with (tmp_path / "tars" / "ILSVRC2012_img_val.tar").open("ab") as file:
        file.write(bytes(10240))
    with pytest.raises(UserError, match=r"changed \(.*ILSVRC2012_img_val\.tar\)"):
        dataset.ensure_cache(spec, 16, str(tmp_path))


def test_a_million_images_are_compared_in_seconds(tmp_path):
    """Four thousand here, with no image in any: nothing is read or decoded."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        for i in range(2000):
            (tmp_path / "pets" / "train" / name / f"{i}.jpg").touch()
    start = time.process_time()
    source = sources.open_source(f"folder:{tmp_path}/pets")
    request = Request(source, 16, str(tmp_path / "c"))
    assert len(request.origin["files"]) == 64 and request.settings["images"] == {"train": 4000}
    assert time.process_time() - start < 1  # 10 microseconds an image, on an idle machine


def test_other_pixels_in_idx_files(tmp_path):
    fixtures.write_mnist(tmp_path / "mnist")
    dataset.ensure_cache(f"idx:{tmp_path}/mnist", 28, str(tmp_path))
    dataset.ensure_cache(f"idx:{tmp_path}/mnist", 28, str(tmp_path))
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    fixtures.write_idx(path, np.zeros((12, 28, 28), np.uint8))
    with pytest.raises(UserError, match=r"as it was; it has other images or labels since"):
        dataset.ensure_cache(f"idx:{tmp_path}/mnist", 28, str(tmp_path))


# --- a preparation whose list changes meanwhile ---------------------------------------------------


def broken_off(pets: pathlib.Path, out: pathlib.Path, holdout: float = 0) -> str:
    """A preparation that a bad image, the last but one, has stopped; what it said."""
    (pets / "train/dog/6.png").write_text("a poem")
    with pytest.raises(UserError, match=r"train/dog/6\.png") as said:
        building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(out), holdout)
    return str(said.value)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(building, "CHUNK", 2)


@pytest.mark.parametrize("holdout", [0, 5])
@pytest.mark.parametrize("way_out", ["removed", "fixed", "others changed"])
def test_a_list_that_changed_does_not_cost_what_was_done(pets, decoded, capsys, way_out, holdout):
    out = pets.parent / "c"
    broken_off(pets, out, holdout)
    done = len(store_rows(out))
    assert done >= 6
    again = 0
    if way_out == "fixed":
        rewrite(pets / "train/dog/6.png", encode(photo(5), "PNG"))
    else:
        (pets / "train/dog/6.png").unlink()
    if way_out == "others changed":
        rewrite(pets / "train/cat/0.png", encode(photo(6), "PNG"))
        (pets / "train/cat/1.png").unlink()
        shutil.copy(pets / "train/dog/0.png", pets / "train/dog/00.png")
        again = 2
    decoded.clear()
    source = sources.open_source(f"folder:{pets}")
    total = sum(len(split) for split in source.splits.values())
    building.make_cache(source, 16, str(out), holdout)
    assert len(decoded) <= total - done + again
    assert "have changed since" in capsys.readouterr().out
    building.make_cache(source, 16, str(pets.parent / "fresh"), holdout)
    assert_same_files(out, pets.parent / "fresh")
    assert sorted(path.name for path in pets.parent.iterdir()) == ["c", "fresh", "pets"]


def store_rows(out: pathlib.Path) -> list[str]:
    """The rows of a preparation that was broken off, of all splits."""
    partial = out.with_name(out.name + ".partial")
    return [
        row
        for split in ("train", "validation", "test")
        if (partial / f"{split}.csv").exists()
        for row in (partial / f"{split}.csv").read_text().splitlines()[1:]
    ]


def test_broken_off_again_while_it_takes_over(pets, decoded, monkeypatch):
    """Twice another list; what was taken over or is still to be is not lost."""
    out = pets.parent / "c"
    broken_off(pets, out)
    (pets / "train/dog/6.png").unlink()
    monkeypatch.setattr(building, "_complete", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(out))
        (pets / "train/dog/0.png").unlink(missing_ok=True)
    monkeypatch.undo()
    load, calls = decoding.load, []
    monkeypatch.setattr(decoding, "load", lambda *a: (calls.append(1), load(*a))[1])
    building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(out))
    assert not calls
    assert sorted(path.name for path in pets.parent.iterdir()) == ["c", "pets"]


def test_other_libraries_may_hold_out_other_images(pets, capsys, monkeypatch):
    """Then nothing is mixed: an image of the validation split would have been trained on."""
    out = pets.parent / "c"
    broken_off(pets, out, holdout=5)
    rewrite(pets / "train/dog/6.png", encode(photo(5), "PNG"))
    monkeypatch.setattr(cv2, "__version__", "99.1")
    monkeypatch.setattr(splits, "HOLDOUT_SEED", 2013)  # as if NumPy's order were another
    building.make_cache(sources.open_source(f"folder:{pets}"), 16, str(out), holdout=5)
    assert "none is taken over, since the libraries" in capsys.readouterr().out
    building.make_cache(
        sources.open_source(f"folder:{pets}"), 16, str(pets.parent / "fresh"), holdout=5
    )
    assert_same_files(out, pets.parent / "fresh")
    assert sorted(path.name for path in pets.parent.iterdir()) == ["c", "fresh", "pets"]


def test_pixels_that_are_not_as_they_were_written_are_not_taken_over(pets, decoded):
    out, partial = pets.parent / "c", pets.parent / "c.partial"
    broken_off(pets, out)
    (pets / "train/dog/6.png").unlink()
    with (partial / "train.images.npy").open("r+b") as file:
        file.seek(building.HEADER + 3 * 16 * 16 * 3)
        file.write(bytes(16 * 16 * 3))
    source = sources.open_source(f"folder:{pets}")
    building.make_cache(source, 16, str(out))
    building.make_cache(source, 16, str(pets.parent / "fresh"))
    assert_same_files(out, pets.parent / "fresh")


def test_the_command_about_a_bad_image_goes_on(pets, capsys):
    """Whole as it is, also where `main` was preparing: then `main` finds the cache."""
    (pets / "train/dog/6.png").write_text("a poem")
    with pytest.raises(UserError, match=r"train/dog/6\.png") as said:
        opened(pets)
    command = re.search(r"`python -m alexnet_jax\.prepare ([^`]*)`", str(said.value))[1]
    assert prepare.main(shlex.split(command)) == 0
    assert "less what is in" in capsys.readouterr().out
    assert len(opened(pets).images["train"]) == 2 * COUNT - 1
    (pets / "train/dog/6.png").write_bytes(encode(photo(5), "PNG"))  # mended: that is a change
    with pytest.raises(UserError, match=r"changed \(train/dog/6\.png\)"):
        opened(pets)


def test_a_new_version_of_the_drawn_images_is_another_cache(tmp_path, monkeypatch):
    """Of one configuration alone, whose images were drawn otherwise before."""
    data = str(tmp_path / "data")
    before = dataset.ensure_cache("embedded/tiny", 16, data)
    tiny = embedded.EmbeddedImages.builder_configs["tiny"]
    newer = dataclasses.replace(tiny, version=tfds.core.Version("2.0.0"), look="hard")
    configs = {**embedded.EmbeddedImages.builder_configs, "tiny": newer}
    monkeypatch.setattr(embedded.EmbeddedImages, "builder_configs", configs)
    monkeypatch.setattr(embedded.EmbeddedImages, "BUILDER_CONFIGS", list(configs.values()))

    after = dataset.ensure_cache("embedded/tiny", 16, data)
    assert after.path != before.path and after.fingerprint != before.fingerprint
    with pytest.raises(UserError, match=r"tiny/1\.0\.0; now it is embedded_images/tiny/2") as said:
        dataset.ensure_cache("tfds:no_matter", 16, data, path=before.path)
    command = re.search("by `python -m alexnet_jax.prepare (.*)`", str(said.value))[1]
    prepare.main(shlex.split(command))
    again = dataset.ensure_cache("tfds:no_matter", 16, data, path=before.path)
    assert again.fingerprint == after.fingerprint
    for split in ("train", "test"):
        assert np.array_equal(again.images[split], after.images[split])
