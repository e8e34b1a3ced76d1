"""The network that comes with the package: as small, and as good, as it is said to be."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from asked_fixtures import program

import alexnet_jax
from alexnet_jax import settings
from alexnet_jax.data.sources import dead_leaves
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.files import INCLUDED
from alexnet_jax.training import first_weights

RESULT = Path(__file__).parents[2] / "experiments" / "results" / "included" / "summary.json"
IMAGES = 2000  # of the test split


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    """It, without naming it."""
    return alexnet_jax.load()


def test_it_has_the_error_that_the_result_says(network: TrainedNetwork) -> None:
    """In one view of the whole test split, drawn here; three images may fall otherwise on another
    processor. Rounding its weights cost no more than that."""
    files = [dead_leaves.encode("test", index) for index in range(IMAGES)]
    labels = [dead_leaves.label_of(index) for index in range(IMAGES)]
    error = np.mean(network.predict(files).argmax(axis=1) != labels)
    said = json.loads(RESULT.read_text())["top1_error"]
    assert said["rounded"]["1"] == pytest.approx(error, abs=3 / IMAGES)
    for views in ("1", "10"):
        assert said["as trained"][views] == pytest.approx(said["rounded"][views], abs=3 / IMAGES)
        assert 0.005 < said["rounded"][views] < 0.02
    assert network.class_names == list(dead_leaves.CLASSES)


def test_it_is_small_and_names_no_place() -> None:
    """At most 4 MB, and no path of the machine that made it."""
    files = [path for path in INCLUDED.rglob("*") if path.is_file()]
    assert 1_000_000 < sum(path.stat().st_size for path in files) <= 4_000_000
    for path in files:
        text = path.read_bytes().decode(errors="ignore")
        if text.isprintable() or path.suffix in (".txt", ".json", ".jsonl"):
            assert not re.search(r'(^|[\s"=])/\w', text), path


def test_a_photo_is_answered_without_a_run(tmp_path: Path) -> None:
    """And who answers is said, away from the answers."""
    green_dots = dead_leaves.CLASSES.index("green-dots")
    (tmp_path / "photo.jpg").write_bytes(dead_leaves.encode("test", green_dots))
    done = program("predict", "photo.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "green-dots" in done.stdout.splitlines()[1]
    assert "comes with the package" in done.stderr and "package" not in done.stdout
    assert max(map(len, done.stderr.splitlines()[:2])) <= 80


def test_it_is_fine_tuned_but_not_trained_on(tmp_path: Path) -> None:
    """Its directory is that of weights: `--config.init_from` takes it, and a run in it is refused,
    so that nobody's training changes the package."""
    before = {path: path.stat().st_mtime_ns for path in INCLUDED.rglob("*")}
    done = program("main", f"--workdir={INCLUDED}", "--config=embedded")
    assert done.returncode != 0 and "holds weights only" in done.stderr
    config = settings.override(settings.load("embedded"), [f"init_from={INCLUDED}"])
    taken = first_weights.take(config, tmp_path)["params"]
    assert list(taken) == [*(f"conv{number}" for number in range(1, 6)), "fc6", "fc7"]
    assert {path: path.stat().st_mtime_ns for path in INCLUDED.rglob("*")} == before
