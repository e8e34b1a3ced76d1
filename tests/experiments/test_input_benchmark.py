"""The benchmark of the input: that it runs, and that its sums are right. No speed is tested."""

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.input.agreement import equal

ROOT = Path(__file__).parents[2]
TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """A tiny run, by its command: the JSON file, the Markdown file, and what was printed."""
    out = tmp_path_factory.mktemp("benchmark") / "new" / "input"
    flags = ["--images=16", "--rounds=2", "--batch_size=8", "--crop=32", "--seconds=0.001"]
    command = [sys.executable, "-m", "experiments.input", *flags, f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["benchmark.json", "benchmark.md"]
    result = json.loads((out / "benchmark.json").read_text())
    return result, (out / "benchmark.md").read_text(), done.stdout


def test_the_file_says_what_was_measured(run) -> None:
    """Command, without where its results went, machine, settings, files and checks."""
    result, _, _ = run
    flags = "--images=16 --rounds=2 --batch_size=8 --crop=32 --seconds=0.001"
    assert result["command"] == f"python -m experiments.input {flags}"
    assert result["machine"]["cores"] >= 1 and "Pillow" in result["machine"]["packages"]
    assert len(result["load_average"]["before"]) == len(result["load_average"]["after"]) == 3
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


def test_the_ratios_follow_from_the_rows(run) -> None:
    """Recomputed from the file alone, and each in a sentence of the page."""
    result, page, _ = run
    cpu = {row["key"]: row["images_per_cpu_second"]["median"] for row in result["rows"]}
    wall = {row["key"]: row["images_per_second"]["median"] for row in result["rows"]}
    best = {
        "grain": max(rate for key, rate in cpu.items() if key.startswith("grain")),
        **{
            kind: max(cpu[f"{kind}_0"], cpu[f"{kind}_2"])
            for kind in ("torch_cached", "torch_jpeg") * TORCH
        },
    }
    expected = {
        "preparation_to_opencv_by_the_clock": wall["prepare"] / wall["fit_opencv_all"],
        "preparation_to_opencv": cpu["prepare"] / cpu["fit_opencv_all"],
        "preparation_to_package": cpu["prepare"] / cpu["fit_package_all"],
        "preparation_to_opencv_with_files": cpu["prepare"] / cpu["files_opencv_all"],
    }
    for where in ("host", "device"):
        measured = cpu[f"stream_{where}"]
        expected[f"{where}_images_per_cpu_second"] = measured
        expected[f"{where}_to_copy"] = measured / cpu["copy"]
        for kind, rate in best.items():
            expected[f"{where}_to_best_{kind}"] = measured / rate
    assert result["ratios"] == expected
    assert f"{expected['host_to_best_grain']:.1f} times the best of grain's rows" in page
    assert f"{expected['preparation_to_opencv']:.0%} per CPU second" in page


def test_the_table_is_printed_and_kept(run) -> None:
    """A row for each variant, under the heading of its group, and the absence of PyTorch."""
    result, kept, printed = run
    assert kept in printed
    lines = [[cell.strip() for cell in line.split("|")] for line in kept.splitlines()]
    for row in result["rows"]:
        start = lines.index(["", f"**{row['group']}**", "", "", "", "", ""])
        rate = f"{row['images_per_second']['median']:,.0f}"
        assert any(line[1:3] == [row["name"], rate] for line in lines[start:] if len(line) > 2)
    assert ("PyTorch is not installed" in kept) != TORCH


def test_what_differs_is_not_timed() -> None:
    """One pixel is enough."""
    ours = np.zeros((2, 4, 4, 3), np.uint8)
    other = ours.copy()
    assert equal(ours, other, "ours = other") == "ours = other"
    other[1, 2, 3, 0] = 1
    with pytest.raises(ValueError, match="not so: ours = other"):
        equal(ours, other, "ours = other")
