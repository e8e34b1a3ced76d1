"""The embedded dataset: the same from any number of workers, readable by TFDS, and no toy."""

import hashlib
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from alexnet_jax.data.sources import dead_leaves, embedded

CUT = 128


def _decode(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _cut(picture: np.ndarray) -> np.ndarray:
    """Shorter side to 128, central 128x128, as the paper cuts its images."""
    scale = CUT / min(picture.shape[:2])
    width, height = (round(length * scale) for length in picture.shape[1::-1])
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - CUT) // 2, (width - CUT) // 2
    return picture[top : top + CUT, left : left + CUT]


def _load(split: str, count: int, look: str) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = zip(*dead_leaves.stream(split, count, look=look), strict=True)
    return np.stack([_cut(_decode(data)) for data in pictures]), np.array(labels)


def test_an_image_depends_on_its_split_and_number_alone():
    alone = dead_leaves.encode("train", 70)
    assert alone == dead_leaves.encode("train", 70)
    assert len({alone, dead_leaves.encode("test", 70), dead_leaves.encode("train", 90)}) == 3
    # More images than the 64 below which `stream` starts no process.
    here, two, three = (list(dead_leaves.stream("train", 80, workers)) for workers in (0, 2, 3))
    assert here == two == three
    assert here[70] == (alone, 10)
    hard = list(dead_leaves.stream("train", 80, 2, "hard"))
    assert hard[70] == (dead_leaves.encode("train", 70, "hard"), 10) != here[70]


def test_threads_of_opencv_change_nothing():
    before = cv2.getNumThreads()
    try:
        digests = set()
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            data = b"".join(dead_leaves.encode("validation", index) for index in range(20))
            digests.add(hashlib.sha256(data).hexdigest())
    finally:
        cv2.setNumThreads(before)
    assert len(digests) == 1


def test_sizes_vary_and_labels_take_turns():
    drawn = [dead_leaves.draw("train", index) for index in range(60)]
    shapes = {picture.shape[:2] for picture, _ in drawn}
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture, _ in drawn)
    assert len(shapes) > 30
    assert all(128 <= min(shape) <= 192 and max(shape) <= 1.41 * min(shape) for shape in shapes)
    assert any(h > w for h, w in shapes) and any(w > h for h, w in shapes)
    assert [label for _, label in drawn] == 3 * list(range(20))
    assert len(set(dead_leaves.CLASSES)) == 20


def test_drawing_imports_neither_jax_nor_tfds():
    code = (
        "import sys, alexnet_jax.data.sources.dead_leaves; "
        "print([name for name in ('jax', 'tensorflow_datasets', 'grain') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_worker_that_dies_is_reported(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('out of paint')")
    monkeypatch.setattr(dead_leaves, "__file__", str(broken))
    with pytest.raises(RuntimeError, match="exit code 1: out of paint"):
        list(dead_leaves.stream("train", 80, workers=2))


def test_an_unknown_split_is_refused():
    with pytest.raises(KeyError, match="dev"):
        next(dead_leaves.stream("dev", 1))


def test_stopping_half_way_leaves_no_process(monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            started.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr(dead_leaves.subprocess, "Popen", Popen)
    stream = dead_leaves.stream("train", 10_000, workers=2)
    next(stream)
    stream.close()  # Would hang here if it waited for the workers to finish.
    assert [worker.returncode for worker in started] == [-signal.SIGKILL] * 2
    assert next(dead_leaves.stream("train", 1)) == (dead_leaves.encode("train", 0), 0)


def test_prepares_and_reads_without_tensorflow(tmp_path):
    counts = {"train": 70, "validation": 20, "test": 40}
    builder = embedded.prepare(tmp_path, embedded.EmbeddedConfig(name="toy", **counts))
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == counts
    assert tuple(builder.info.features["label"].names) == dead_leaves.CLASSES

    # Read by name, as any TFDS dataset, in the order TFDS shuffled it into.
    raw = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source("embedded_images/toy", split="train", data_dir=tmp_path, decoders=raw)
    read = sorted((record["image"], int(record["label"])) for record in source)
    assert read == sorted(dead_leaves.stream("train", 70, workers=0))
    assert "tensorflow" not in sys.modules

    embedded.prepare(tmp_path, embedded.EmbeddedConfig(name="toy", **counts))  # Once is enough.


@pytest.fixture(scope="module", params=dead_leaves.LOOKS)
def cut_images(request) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return *_load("train", 2400, request.param), *_load("test", 1000, request.param)


def test_class_means_of_pixels_do_not_solve_it(cut_images):
    train, labels, test, truth = cut_images
    train, test = (x.reshape(len(x), -1).astype(np.float32) for x in (train, test))
    means = np.stack([train[labels == k].mean(0) for k in range(20)])
    # |x - m|^2 without the |x|^2, which is the same for every class.
    distance = (means**2).sum(1) - 2 * test @ means.T
    error = (distance.argmin(1) != truth).mean()
    print(f"nearest class mean on pixels: {error:.1%} error")
    assert error > 0.60


def _histogram(pictures: np.ndarray) -> np.ndarray:
    """Root of the share of pixels in each of 8x8x8 colours, and 1: ``[images, 513]``."""
    bins = pictures.reshape(len(pictures), -1, 3) >> 5
    codes = bins @ np.array([64, 8, 1], np.uint16)
    counts = np.stack([np.bincount(code, minlength=512) for code in codes])
    return np.sqrt(np.pad(counts / codes.shape[1], ((0, 0), (0, 1)), constant_values=1.0))


def test_colour_histograms_do_not_solve_it(cut_images):
    train, labels, test, truth = cut_images
    features, targets = _histogram(train), np.eye(20)[labels]
    errors = []
    for ridge in (0.01, 0.1, 1.0, 10.0):  # The best on the test images: only harder to pass.
        gram = features.T @ features + ridge * np.eye(features.shape[1])
        weights = np.linalg.solve(gram, features.T @ targets)
        errors.append(((_histogram(test) @ weights).argmax(1) != truth).mean())
    print(f"ridge regression on colour histograms: {min(errors):.1%} error")
    assert min(errors) > 0.60


@pytest.mark.parametrize("look", dead_leaves.LOOKS)
def test_the_box_is_where_the_object_is_painted(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes of the canvas lies within it and nearly fills it; the picture is the same."""
    paint = dead_leaves._draw_object
    changed: list[np.ndarray] = []

    def watched(canvas: np.ndarray, *rest: object) -> None:
        before = canvas.copy()
        paint(canvas, *rest)
        rows, columns = np.nonzero((canvas != before).any(axis=-1))
        changed.append(np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]))

    plain = [dead_leaves.draw("test", index, look)[0] for index in range(12)]
    monkeypatch.setattr(dead_leaves, "_draw_object", watched)
    for index, picture in enumerate(plain):
        drawn = dead_leaves.drawing("test", index, look)
        np.testing.assert_array_equal(drawn.picture, picture)
        inner, outer = changed[-1], drawn.box
        assert (inner[0] >= outer[0]).all() and (inner[1] <= outer[1]).all()
        # The outline touches the circle in the box, and so perhaps none of its four sides.
        assert (inner[1] - inner[0]).max() >= 0.7 * (outer[1] - outer[0]).max()
