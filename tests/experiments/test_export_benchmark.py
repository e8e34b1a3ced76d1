"""The benchmark of the exports, on a small network: what it counts, and that its page shows it."""

from pathlib import Path
from typing import Any

import data_fixtures
import numpy as np
import pytest
import trained_fixtures

from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.evaluation.trained_network import load
from alexnet_jax.model import make_mesh

pytest.importorskip("onnxruntime")

from experiments.export.measure import BATCHES, Clock, run_rows
from experiments.export.report import precisions

CLASSES = ["a", "b"]
TEST = 40  # images, more than are asked at once


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network, with a folder of images to calibrate with and to be tested on."""
    path = tmp_path_factory.mktemp("run")
    data_fixtures.write_folder(path / "images", {"train": 6, "test": TEST // 2}, CLASSES)
    data = (f"data.source=folder:{path}/images", f"data.dir={path}/data", "data.test=test")
    trained_fixtures.save_network(path / "run", None, 0, *data)
    return path / "run"


@pytest.fixture(scope="module")
def rows(workdir: Path) -> list[dict[str, Any]]:
    """A tiny measurement."""
    return run_rows(workdir, Clock(2, 0.001))


def test_errors_are_those_of_the_whole_test_split(rows: list, workdir: Path) -> None:
    """Counted from the network's own logits, which float32 gives."""
    assert [row["precision"] for row in rows] == ["float32", "float16", "int8"]
    network = load(workdir, mesh=make_mesh(1, 1))
    data = network.config.data
    cache = ensure_cache(data.source, data.size, data.dir)
    logits, labels = network.logits(cache.images["test"]), np.asarray(cache.labels["test"])
    assert rows[0]["examples"] == len(labels) == TEST
    first = (logits.argmax(axis=1) != labels).mean()
    five = [label not in row.argsort()[-5:] for row, label in zip(logits, labels, strict=True)]
    assert rows[0]["top1_error"] == pytest.approx(first)
    assert rows[0]["top5_error"] == pytest.approx(np.mean(five))
    apart = [row["from_own_logits"] for row in rows]
    assert apart[0] < 1e-5 < apart[1] < apart[2] < 0.2


def test_sizes_and_times(rows: list) -> None:
    """Narrower is smaller; of each batch the milliseconds of a call."""
    sizes = [row["megabytes"] for row in rows]
    assert sizes[0] > sizes[1] > sizes[2] > 0
    for row in rows:
        for batch in BATCHES:
            for clock in ("wall", "cpu"):
                spread = row[f"{clock}_milliseconds_{batch}"]
                assert 0 < spread["min"] <= spread["median"] <= spread["max"] < 10_000


def test_the_table(rows: list) -> None:
    """A line for each precision, with what it changes."""
    rows = [row | {"top1_error": error} for row, error in zip(rows, (0.1, 0.12, 0.15), strict=True)]
    head, _, *lines = precisions(rows).splitlines()
    assert head.count("|") == 2 + 4 * len(BATCHES) // 2 + 5
    for row, line in zip(rows, lines, strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[0] == row["precision"] and cells[1] == f"{row['megabytes']:.1f}"
        assert cells[3] == f"{row['cpu_milliseconds_1']['median']:,.2f}"
        change = {0.1: "+0.00", 0.12: "+2.00", 0.15: "+5.00"}[row["top1_error"]]
        assert cells[-4:-2] == [f"{row['top1_error']:.2%}", f"{change} points"]
