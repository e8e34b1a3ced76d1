"""The benchmark of the input: that it runs, and that its sums are right. No speed is tested."""

import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """A tiny run, by its command: the JSON file, the Markdown file, and what was printed."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "benchmark.json"
    flags = ["--images=16", "--rounds=2", "--batch_size=8", "--crop=32", "--seconds=0.001"]
    command = [sys.executable, "-m", "experiments.input", *flags, f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), out.with_suffix(".md").read_text(), done.stdout


def test_the_file_says_what_was_measured(run) -> None:
    """Command, machine, settings, files and checks."""
    result, _, _ = run
    assert result["command"].startswith("python -m experiments.input --images=16")
    assert result["machine"]["cores"] >= 1 and "Pillow" in result["machine"]["packages"]
    assert result["settings"]["batch_size"] == 8 and result["settings"]["torch"] == TORCH
    kilobytes = result["jpegs"]["kilobytes"]
    assert 100 <= kilobytes["min"] <= kilobytes["median"] <= kilobytes["max"] <= 120
    assert len(result["checks"]) == 5 + 2 * TORCH


def test_every_row_is_the_median_of_its_rounds(run) -> None:
    """By the clock and per CPU second."""
    result, _, _ = run
    keys = [row["key"] for row in result["rows"]]
    torch_keys = [f"torch_{data}_{workers}" for data in ("cached", "jpeg") for workers in (0, 2)]
    assert [key for key in keys if key.startswith("torch")] == torch_keys * TORCH
    assert {"stream_host", "stream_device", "stream_undecoded", "copy", "prepare"} < set(keys)
    for row in result["rows"]:
        assert len(row["rounds"]) == 2
        for name, seconds in (
            ("images_per_second", "wall_seconds"),
            ("images_per_cpu_second", "cpu_seconds"),
        ):
            rates = [reading["images"] / reading[seconds] for reading in row["rounds"]]
            assert row[name] == {
                "median": statistics.median(rates), "min": min(rates), "max": max(rates)
            }  # fmt: skip


def test_ratios_and_targets_follow_from_the_rows(run) -> None:
    """Recomputed from the file alone."""
    result, _, _ = run
    cpu = {row["key"]: row["images_per_cpu_second"]["median"] for row in result["rows"]}
    wall = {row["key"]: row["images_per_second"]["median"] for row in result["rows"]}
    ratios = result["ratios"]
    targets = {target["key"]: target for target in result["targets"]}
    for where, rate, share in (("host", 8_000, 0.25), ("device", 15_000, 0.5)):
        measured = cpu[f"stream_{where}"]
        assert ratios[f"{where}_to_copy"] == measured / cpu["copy"]
        grain = max(rate for key, rate in cpu.items() if key.startswith("grain"))
        assert ratios[f"{where}_to_best_grain"] == measured / grain
        score = max(measured / rate, measured / cpu["copy"] / share)
        assert targets[where]["score"] == pytest.approx(score)
    score = cpu["prepare"] / cpu["fit_opencv_all"] / 0.85
    assert targets["preparation"]["score"] == pytest.approx(score)
    by_the_clock = wall["prepare"] / wall["fit_opencv_all"]
    assert ratios["preparation_to_opencv_by_the_clock"] == by_the_clock
    assert ("torch_jpeg" in targets) == TORCH
    if TORCH:
        jpeg = max(cpu["torch_jpeg_0"], cpu["torch_jpeg_2"])
        assert targets["torch_jpeg"]["score"] == pytest.approx(cpu["stream_host"] / jpeg / 20)
    for target in targets.values():
        assert target["reached"] == (target["score"] >= 1)
        assert target["sentence"].startswith("reached: " if target["reached"] else "missed by ")


def test_the_table_is_printed_and_kept(run) -> None:
    """A row for each variant, a line for each target, and the absence of PyTorch."""
    result, kept, printed = run
    assert kept in printed
    for row in result["rows"]:
        numbers = f" {row['images_per_second']['median']:,.0f} "
        assert any(row["name"] in line and numbers in line for line in kept.splitlines())
    assert all(target["sentence"] in kept for target in result["targets"])
    assert ("PyTorch is not installed" in kept) != TORCH
