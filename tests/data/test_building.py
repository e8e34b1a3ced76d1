"""Preparation: its statistics against float64, its files whatever happens on the way."""

import json
import os
import pathlib
import time
from unittest import mock

import cv2
import data_fixtures as fixtures
import numpy as np
import pytest
from data_fixtures import Photos, assert_same_files, photos

from alexnet_jax.data import decoding, sources, threads
from alexnet_jax.data.cache import building, estimate, store
from alexnet_jax.data.cache.journal import GrowingFiles, Position
from alexnet_jax.data.cache.statistics import Sums
from alexnet_jax.data.sources.record import Source
from alexnet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


# --- what is in the files -------------------------------------------------------------------------


def test_contents_and_statistics_against_float64(tmp_path):
    source = photos()
    cache = building.make_cache(source, 16, str(tmp_path / "c"))
    train = np.stack([decoding.fit(source.splits["train"][i].content, 16) for i in range(150)])
    np.testing.assert_array_equal(cache.images["train"], train)
    np.testing.assert_array_equal(cache.labels["train"], np.arange(150) % 3)
    assert cache.labels["test"].dtype == np.int32 and len(cache.images["test"]) == 5
    mean = train.astype(np.float64).mean(axis=0)
    np.testing.assert_array_equal(cache.mean_image, mean.astype(np.float32))
    covariance = np.cov(train.reshape(-1, 3).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(cache.eigenvalues, np.linalg.eigvalsh(covariance), rtol=1e-11)
    assert np.all(np.diff(cache.eigenvalues) > 0)
    np.testing.assert_allclose(
        covariance @ cache.eigenvectors, cache.eigenvectors * cache.eigenvalues, atol=1e-8
    )
    np.testing.assert_allclose(cache.eigenvectors.T @ cache.eigenvectors, np.eye(3), atol=1e-13)
    names = [(label, name) for label, _, name in cache.rows("train")]
    assert names == [(i % 3, f"photo {i}") for i in range(150)]


def test_sums_are_exact():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 9, 9, 3), dtype=np.uint8)
    pixels[:100] = 255
    sums = Sums.of(pixels)
    wide = pixels.astype(np.int64)
    np.testing.assert_array_equal(sums.image, wide.sum(axis=0))
    flat = wide.reshape(-1, 3)
    np.testing.assert_array_equal(sums.products, flat.T @ flat)
    most = Sums.of(np.broadcast_to(np.uint8(255), (70_000, 1, 1, 3)))  # beyond 2^24 / 255
    assert (most.image == 70_000 * 255).all() and (most.products == 70_000 * 255**2).all()
    large = Sums.of(np.full((1, 256, 256, 3), 255, np.uint8))
    assert (large.products == 256 * 256 * 255**2).all()


def test_statistics_are_exact_at_imagenets_size():
    """Half of 1,281,167 x 256 x 256 pixels red, half green: the covariance is known."""
    count, pixels = 1_281_168, 256 * 256
    half = count * pixels // 2
    products = np.diag([half * 255**2, half * 255**2, 0]).astype(np.int64)
    image = np.zeros((256, 256, 3), np.int64)
    image[..., :2] = count // 2 * 255
    values, vectors = Sums(count, image, products).principal_components()
    np.testing.assert_allclose(values, [0, 0, 2 * 127.5**2], rtol=1e-14, atol=1e-10)
    np.testing.assert_allclose(np.abs(vectors[:, 2]), [0.5**0.5, 0.5**0.5, 0], atol=1e-14)


def test_a_components_sign_is_that_of_its_largest_entry(monkeypatch):
    """Whichever sign the library gives it, and that is free."""
    sums = Sums.of(np.random.default_rng(0).integers(0, 256, (20, 9, 9, 3), dtype=np.uint8))
    values, vectors = sums.principal_components()
    assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()
    eigh = np.linalg.eigh
    for signs in ([1, 1, 1], [-1, 1, -1], [-1, -1, 1]):
        found = eigh(sums.covariance())
        given = (found.eigenvalues, found.eigenvectors * signs)
        monkeypatch.setattr(np.linalg, "eigh", lambda _, given=given: given)
        again = sums.principal_components()
        np.testing.assert_array_equal(again[0], values)
        np.testing.assert_array_equal(again[1], vectors)


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 3):
        building.make_cache(photos(), 16, str(tmp_path / str(workers)), workers=workers)
    assert_same_files(tmp_path / "1", tmp_path / "3")


@pytest.mark.parametrize("holdout", [40, 4 / 15])
def test_holdout(tmp_path, holdout):
    whole = building.make_cache(photos(), 16, str(tmp_path / "whole"))
    cache = building.make_cache(photos(), 16, str(tmp_path / "holdout"), holdout=holdout)
    train, held = cache.images["train"], cache.images["validation"]
    assert (len(train), len(held)) == (110, 40)
    together = {image.tobytes() for image in train} | {image.tobytes() for image in held}
    assert together == {image.tobytes() for image in whole.images["train"]} and len(together) == 150
    mean = np.asarray(train, np.float64).mean(axis=0)  # the held-out images count in no statistic
    np.testing.assert_array_equal(cache.mean_image, mean.astype(np.float32))
    again = building.make_cache(photos(), 16, str(tmp_path / "again"), holdout=holdout)
    assert again.fingerprint == cache.fingerprint != whole.fingerprint


class Watched(Photos):
    """Notes what is read, and how many threads OpenCV has meanwhile."""

    def __init__(self, count: int):
        super().__init__(count)
        self.read: list[int] = []
        self.threads: set[int] = set()

    def __getitem__(self, index):
        self.read.append(index)
        self.threads.add(cv2.getNumThreads())
        return super().__getitem__(index)


def watched(count: int) -> tuple[Watched, Source]:
    split = Watched(count)
    return split, Source("watched", ("a", "b", "c"), {"train": split}, "")


def test_opencv_has_one_thread_while_the_workers_have_the_cores(tmp_path):
    """And afterwards as many as before."""
    split, source = watched(40)
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        estimate.estimate(source, 16)
        assert (split.threads, cv2.getNumThreads()) == ({1}, 3)
        split.threads.clear()
        building.make_cache(source, 16, str(tmp_path / "c"))
        assert (split.threads, cv2.getNumThreads()) == ({1}, 3)
    finally:
        cv2.setNumThreads(before)


def test_an_estimate_is_of_images_from_all_over_the_split():
    """Some dozens, each once, from the first to the last; all where they are few."""
    split, source = watched(10_000)
    assert estimate.estimate(source, 16, workers=2).images == 10_000
    read = np.sort(split.read)
    assert (read[0], read[-1]) == (0, 9_999)
    assert np.ptp(np.diff(read)) <= 1 and 32 <= len(read) <= 200
    split, source = watched(5)
    estimate.estimate(source, 16)
    assert sorted(split.read) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.01, "about 1 s"), (12.4, "about 12 s"), (59.4, "about 59 s"), (59.6, "about 1 min"),
        (5399, "about 90 min"), (5400, "about 1.5 hours"),
    ],
)  # fmt: skip
def test_how_long_it_takes_in_words(seconds, words):
    assert f"{words} on 4 cores" in str(estimate.Cost(100, 10**6, 4, 100 / seconds))


def test_only_a_few_images_wait_in_memory(tmp_path, monkeypatch):
    """While the disk is slow the workers stop, however many images there are."""
    split, source = watched(2_000)
    append, waiting = building.GrowingFiles.append, []

    def slow(files, name, content):
        if not waiting:
            waiting.append(0)
            while len(split.read) > waiting[-1]:  # until nothing more is read
                waiting.append(len(split.read))
                time.sleep(0.2)
        return append(files, name, content)

    monkeypatch.setattr(building.GrowingFiles, "append", slow)
    building.make_cache(source, 16, str(tmp_path / "c"), workers=2)
    assert 0 < waiting[-1] <= 8 * building.CHUNK
    assert len(split.read) == 2_000


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_record_is_written_after_what_it_records(tmp_path, monkeypatch, interrupted):
    """What it says is whole has been forced to the disk, or a power cut could leave it saying more
    than there is. That holds for the last one too, and for one after an interruption."""
    forced: dict[int, int] = {}
    events: list[object] = []
    missing: list[list[str]] = []
    save = Position.save

    def sync(descriptor: int) -> None:
        file = os.fstat(descriptor)
        forced[file.st_ino] = file.st_size
        events.append(file.st_ino)

    def check(position: Position, directory: pathlib.Path, settings: dict) -> None:
        sizes = {name: forced.get((directory / name).stat().st_ino, 0) for name in position.lengths}
        lengths = position.lengths.items()
        missing.append([name for name, length in lengths if sizes[name] < length])
        save(position, directory, settings)

    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *a: (events.append("rename"), rename(*a)))
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(Position, "save", check)
    monkeypatch.setattr(building, "RECORD_SECONDS", 0.0)
    if interrupted:
        monkeypatch.setattr(building, "RECORD_SECONDS", 1e9)
        append = GrowingFiles.append

        def interrupt(growing, name, content):
            if name == "test.csv":
                raise KeyboardInterrupt
            return append(growing, name, content)

        monkeypatch.setattr(GrowingFiles, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            building.make_cache(photos(), 16, str(tmp_path / "c"))
        assert len(missing) == 2 and not any(missing)  # the first, of nothing, and the last
        return
    building.make_cache(photos(), 16, str(tmp_path / "c"))
    assert len(missing) > 5 and not any(missing)
    written = {path.stat().st_ino for path in (tmp_path / "c").iterdir()}
    assert written <= forced.keys()
    renamed = events.index("rename")  # the directory got its name: that too is forced
    assert tmp_path.stat().st_ino in events[renamed:]


def test_macos_has_neither_fdatasync_nor_affinities(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(building, "RECORD_SECONDS", 0.0)
    cache = building.make_cache(photos(), 16, str(tmp_path / "c"))
    assert len(cache.images["train"]) == 150


def write_control_groups(root: pathlib.Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # docker --cpus=1.5
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),  # more than there are
        ("2:cpu,cpuacct:/j\n", {"cpu,cpuacct/j/cpu.cfs_quota_us": "400000\n",
                                "cpu,cpuacct/j/cpu.cfs_period_us": "100000\n"}, 4),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
    ],
)  # fmt: skip
def test_cores_are_those_of_the_control_group(tmp_path, monkeypatch, own, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")
    assert threads.cores() == 8
    (tmp_path / "own").write_text(own)
    write_control_groups(tmp_path, files)
    assert threads.cores() == expected


def test_names_of_any_kind_come_back(tmp_path):
    names = ['a "b", c.jpg', "new\nline.jpg", "re\rturn.jpg", "bytes \udcff.jpg", "grün.jpg", ""]

    class Named(Photos):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(name=names[index])

    source = Source("s", ("a", "b", "c"), {"train": Named(6)}, "")
    cache = building.make_cache(source, 16, str(tmp_path / "c"))
    assert [name for _, _, name in cache.rows("train")] == names


# --- what cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "size", "holdout", "message"),
    [
        (Source("s", ("a",), {"train": Photos(4)}, ""), 16, 0, "1 class.*at least two"),
        (Source("s", ("a", "b"), {"test": Photos(4)}, ""), 16, 0, "no training images"),
        (Source("s", ("a", "b"), {"train": Photos(0)}, ""), 16, 0, "no training images"),
        (Source("s", ("a", "b"), {"train": Photos(4)}, ""), 16, 0, "photo 2 has the label 2, but"),
        (photos(4), 10**6, 0, r"needs 27,000\.0 GB in .*free: choose a larger disk"),
        (photos(4), 0, 0, "size=0"),
        (photos(4), 16, 4, "holdout=4: expected 1 to 3"),
        (photos(4), 16, -1, "holdout=-1"),
        (photos(4), 16, 0.01, "holdout=0.01"),
        (photos(4), 16, 1.5, "holdout=1.5"),
        (photos(4), 16, float("nan"), "holdout=nan"),
    ],
)
def test_what_cannot_be_made(tmp_path, source, size, holdout, message):
    with pytest.raises(UserError, match=message):
        building.make_cache(source, size, str(tmp_path / "c"), holdout)
    assert not (tmp_path / "c").exists()


def test_holdout_beside_a_validation_split(tmp_path):
    splits = {"train": Photos(9), "validation": Photos(3)}
    source = Source("s", ("a", "b", "c"), splits, "")
    with pytest.raises(UserError, match="validation split of its own"):
        building.make_cache(source, 16, str(tmp_path / "c"), holdout=3)


def test_a_bad_image_stops_the_preparation_or_is_left_out(tmp_path, spoilt):
    out = str(tmp_path / "c")
    with pytest.raises(
        UserError, match=r"train/dog/17\.png of the split train .*fix it or remove it, and give"
    ):
        building.make_cache(spoilt, 16, out)
    assert not (tmp_path / "c").exists()
    cache = building.make_cache(spoilt, 16, out, on_bad_image="skip")
    assert (len(cache.images["train"]), len(cache.images["test"])) == (158, 5)
    meta = json.loads((tmp_path / "c" / "meta.json").read_text())
    assert meta["skipped"] == {"train": 2, "test": 1}
    listed = (tmp_path / "c" / "skipped.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in listed[1:]] == [
        ['"train"', '"train/dog/17.png"'],
        ['"train"', '"train/dog/21.png"'],
        ['"test"', '"test/cat/1.png"'],
    ]
    names = [name for _, _, name in cache.rows("train")]
    assert "train/dog/17.png" not in names and "train/dog/18.png" in names
    bad = (89, 94)  # the places of dog/17 and dog/21, sorted as texts
    good = [spoilt.splits["train"][i] for i in range(160) if i not in bad]
    assert len(names) == len(good)
    for row, record in enumerate(good):
        assert names[row] == record.name
        np.testing.assert_array_equal(cache.images["train"][row], decoding.load(record.content, 16))
        assert cache.labels["train"][row] == record.label
    store.verify(cache)
    building.make_cache(spoilt, 16, str(tmp_path / "at once"), on_bad_image="skip")
    assert_same_files(tmp_path / "c", tmp_path / "at once")


def test_skipped_images_are_not_forgotten_by_fail(tmp_path, spoilt, monkeypatch):
    """Broken off after images were left out; then asked to fail at such images."""
    monkeypatch.setattr(building, "_complete", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        building.make_cache(spoilt, 16, str(tmp_path / "c"), on_bad_image="skip")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"left out 3 images already .*on_bad_image=skip`, or del"):
        building.make_cache(spoilt, 16, str(tmp_path / "c"))
    cache = building.make_cache(spoilt, 16, str(tmp_path / "c"), on_bad_image="skip")
    assert len(cache.images["train"]) == 158


def test_a_file_that_cannot_be_read_is_a_bad_image(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 4}, ("cat", "dog"))
    (tmp_path / "pets" / "train" / "cat" / "z.png").symlink_to("/not/there")
    source = sources.open_source(f"folder:{tmp_path}/pets")
    with pytest.raises(UserError, match=r"cat/z\.png: No such file"):
        building.make_cache(source, 16, str(tmp_path / "c"))
    assert estimate.estimate(source, 16).images == 9
    cache = building.make_cache(source, 16, str(tmp_path / "c"), on_bad_image="skip")
    assert len(cache.images["train"]) == 8


def test_a_split_of_bad_images_only_is_left_out(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 4, "test": 1}, ("cat", "dog"))
    for name in ("cat", "dog"):
        (tmp_path / "pets" / "test" / name / "0.png").write_text("a poem")
    source = sources.open_source(f"folder:{tmp_path}/pets")
    cache = building.make_cache(source, 16, str(tmp_path / "c"), on_bad_image="skip")
    assert list(cache.images) == ["train"]
    assert not list((tmp_path / "c").glob("test*"))
    assert json.loads((tmp_path / "c" / "meta.json").read_text())["skipped"]["test"] == 2


def test_nothing_but_bad_images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        (tmp_path / "pets" / "train" / name / "1.jpg").write_text("a poem")
    with pytest.raises(UserError, match="none of the training images can be used"):
        building.make_cache(
            sources.open_source(f"folder:{tmp_path}/pets"), 16, str(tmp_path / "c"),
            on_bad_image="skip",
        )  # fmt: skip
