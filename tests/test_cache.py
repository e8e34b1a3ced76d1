"""The cache: its geometry and its statistics against independent computations, and its promises."""

import json
import pathlib
import subprocess
import sys

import data_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.data import cache as caches
from alexnet_jax.data.sources import Source
from alexnet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


class Photos:
    """A split of photographs of changing sizes."""

    def __init__(self, count: int, seed: int = 0, classes: int = 3):
        self.count, self.seed, self.classes = count, seed, classes

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        image = fixtures.photo(self.seed + index, 20 + index % 7, 20 + index % 5)
        return image, self.label(index)

    def label(self, index):
        return index % self.classes


def photos(train: int = 150, test: int = 5) -> Source:
    splits = {"train": Photos(train), "test": Photos(test, seed=500)}
    return Source("photos", ("a", "b", "c"), splits)


# --- geometry -------------------------------------------------------------------------------------


def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source): the share of each source pixel in each target pixel, by their overlap."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * target / source


def cubic_weights(source: int, target: int) -> np.ndarray:
    """(target, source): Keys' cubic with a = -0.75, pixel centres at one half, edges repeated."""
    weights = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x, a = abs(centre - j), -0.75
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, min(max(j, 0), source - 1)] += weight
    return weights


@pytest.mark.parametrize(
    ("height", "width", "size", "new_height", "new_width", "top", "left"),
    [
        (375, 500, 256, 256, 341, 0, 42),  # ImageNet's usual size
        (500, 375, 256, 341, 256, 42, 0),
        (300, 300, 256, 256, 256, 0, 0),
        (256, 401, 256, 256, 401, 0, 72),  # nothing to scale
        (28, 28, 32, 32, 32, 0, 0),  # Fashion-MNIST, enlarged
        (90, 150, 128, 128, 213, 0, 42),
    ],
)
def test_fit_is_the_papers_resize(height, width, size, new_height, new_width, top, left):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    weights = area_weights if min(height, width) > size else cubic_weights
    rows, columns = weights(height, new_height), weights(width, new_width)
    whole = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
    expected = np.clip(whole, 0, 255)[top : top + size, left : left + size]
    fitted = caches.fit(image, size)
    assert fitted.shape == (size, size, 3) and fitted.dtype == np.uint8
    assert np.abs(fitted - expected).max() < 1.0  # half a level by rounding, OpenCV's fixed point


# --- statistics -----------------------------------------------------------------------------------


def test_contents_and_statistics_against_float64(tmp_path):
    source = photos()
    cache = caches.make_cache(source, 16, str(tmp_path / "c"))
    train = np.stack([caches.fit(source.splits["train"][i][0], 16) for i in range(150)])
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


def test_statistics_are_exact_at_imagenets_size():
    """Half of 1,281,167 x 256 x 256 pixels red, half green: the covariance is known."""
    count, pixels = 1_281_168, 256 * 256
    half = count * pixels // 2
    products = np.diag([half * 255**2, half * 255**2, 0]).astype(np.int64)
    image = np.zeros((256, 256, 3), np.int64)
    image[..., :2] = count // 2 * 255
    values, vectors = caches.Sums(count, image, products).principal_components()
    np.testing.assert_allclose(values, [0, 0, 2 * 127.5**2], rtol=1e-14, atol=1e-10)
    np.testing.assert_allclose(np.abs(vectors[:, 2]), [0.5**0.5, 0.5**0.5, 0], atol=1e-14)


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 3):
        caches.make_cache(photos(), 16, str(tmp_path / str(workers)), workers=workers)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name


def test_holdout(tmp_path):
    whole = caches.make_cache(photos(), 16, str(tmp_path / "whole"))
    cache = caches.make_cache(photos(), 16, str(tmp_path / "holdout"), holdout=40)
    train, held = cache.images["train"], cache.images["validation"]
    assert (len(train), len(held)) == (110, 40)
    together = {image.tobytes() for image in train} | {image.tobytes() for image in held}
    assert together == {image.tobytes() for image in whole.images["train"]} and len(together) == 150
    mean = np.asarray(train, np.float64).mean(axis=0)  # the held-out images count in no statistic
    np.testing.assert_array_equal(cache.mean_image, mean.astype(np.float32))
    again = caches.make_cache(photos(), 16, str(tmp_path / "again"), holdout=40)
    assert again.fingerprint == cache.fingerprint != whole.fingerprint


# --- complete, or not there -----------------------------------------------------------------------


def test_two_processes_at_once(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 40, "test": 2}, ("cat", "dog", "emu"))
    stale = (
        tmp_path
        / "data"
        / "alexnet_jax"
        / ".{}.partial-1".format(caches.cache_name(f"folder:{tmp_path}/pets", 16))
    )
    stale.mkdir(parents=True)  # what a killed process leaves
    code = (
        "import sys, pathlib, time\n"
        "from alexnet_jax.data import cache\n"
        "pathlib.Path(sys.argv[2] + sys.argv[3]).touch()\n"
        "while not (pathlib.Path(sys.argv[2] + '0').exists()"
        " and pathlib.Path(sys.argv[2] + '1').exists()): time.sleep(0.001)\n"
        "c = cache.ensure_cache('folder:' + sys.argv[1] + '/pets', 16, sys.argv[1] + '/data')\n"
        "print(c.fingerprint, len(c.images['train']), int(c.images['train'].sum()))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "ready"), str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for i in range(2)
    ]
    answers = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert answers[0] == answers[1] and answers[0][1] == ""  # no progress bar off a terminal
    name = caches.cache_name(f"folder:{tmp_path}/pets", 16)
    left = sorted(path.name for path in (tmp_path / "data" / "alexnet_jax").iterdir())
    assert left == sorted([f".{name}.lock", name])


def test_ensure_cache_makes_once_and_then_needs_the_source_no_more(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 2}, ("cat", "dog"))
    first = caches.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    (tmp_path / "pets").rename(tmp_path / "elsewhere")
    again = caches.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    assert first.fingerprint == again.fingerprint and first.path == again.path
    moved = caches.ensure_cache(f"folder:{tmp_path}/elsewhere", 16, str(tmp_path))
    assert moved.fingerprint == first.fingerprint and moved.path != first.path
    other = caches.ensure_cache(f"folder:{tmp_path}/elsewhere", 20, str(tmp_path))
    assert other.fingerprint != first.fingerprint


def test_names():
    assert caches.cache_name("tfds:imagenet2012:5.1.0", 256) == "imagenet2012-5.1.0-256"
    assert caches.cache_name("fashion_mnist", 32, 5000) == "fashion_mnist-32-holdout5000"
    assert caches.cache_name("embedded", 128) == caches.cache_name("embedded/full", 128)
    name = caches.cache_name("folder:/data/my pets/", 64)
    assert name.startswith("my-pets-") and name != caches.cache_name("folder:/my pets", 64)


@pytest.mark.parametrize(
    ("source", "size", "holdout", "message"),
    [
        (Source("s", ("a",), {"train": Photos(4)}), 16, 0, "1 class.*at least two"),
        (Source("s", ("a", "b"), {"test": Photos(4)}), 16, 0, "no training images"),
        (Source("s", ("a", "b"), {"train": Photos(0)}), 16, 0, "no training images"),
        (Source("s", ("a", "b"), {"train": Photos(4)}), 16, 0, "labels 0 to 2, but 2 classes"),
        (photos(4), 10**6, 0, r"needs 27000\.0 GB in .*free: set config\.data\.dir"),
        (photos(4), 0, 0, "size 0"),
        (photos(4), 16, 4, "holdout=4: expected 1 to 3"),
        (photos(4), 16, -1, "holdout=-1"),
    ],
)
def test_what_cannot_be_made(tmp_path, source, size, holdout, message):
    with pytest.raises(UserError, match=message):
        caches.make_cache(source, size, str(tmp_path / "c"), holdout)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".c.lock"])


def test_holdout_beside_a_validation_split(tmp_path):
    source = Source("s", ("a", "b", "c"), {"train": Photos(9), "validation": Photos(3)})
    with pytest.raises(UserError, match="validation split of its own"):
        caches.make_cache(source, 16, str(tmp_path / "c"), holdout=3)


def test_a_damaged_image_is_named(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 80}, ("cat", "dog"))
    (tmp_path / "pets" / "train" / "dog" / "17.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(UserError, match=r"image \d+ of split train cannot .*dog/17\.png.*mend"):
        caches.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path))
    assert [p.suffix for p in (tmp_path / "alexnet_jax").iterdir()] == [".lock"]


def test_directories_that_cannot_be_used(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 1}, ("cat", "dog"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*set config\.data\.dir"):
        caches.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path / "file"))
    with pytest.raises(UserError, match="give a local directory"):
        caches.ensure_cache(f"folder:{tmp_path}/pets", 16, "gs://bucket/data")


def test_damaged_caches_are_noticed(tmp_path):
    path = tmp_path / "c"
    caches.make_cache(photos(9), 16, str(path))
    images = (path / "train.images.npy").read_bytes()
    (path / "train.images.npy").write_bytes(images[:-100])
    with pytest.raises(UserError, match=r"damaged.*delete it"):
        caches.open_cache(str(path))
    (path / "train.images.npy").write_bytes(images)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"counts": {"train": 8, "test": 5}}))
    with pytest.raises(UserError, match="expected 8 images"):
        caches.open_cache(str(path))
    (path / "meta.json").write_text(json.dumps(meta | {"format": 0}))
    with pytest.raises(UserError, match="format 0, expected 1"):
        caches.open_cache(str(path))
    (path / "meta.json").unlink()
    with pytest.raises(UserError, match=r"no cache \(.*meta\.json is missing"):
        caches.open_cache(str(path))
