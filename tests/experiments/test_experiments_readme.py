"""What the page about the experiments says is what the result files hold."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "experiments"
README = (FOLDER / "README.md").read_text()
# What commands were called when some of the results were made.
OLDER = {
    "benchmark_input": "input",
    "benchmark_step": "step",
    "benchmark_export": "export",
    "run_seeds": "seeds",
}


def section(name: str) -> str:
    """What stands below a heading."""
    found = README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert found, name
    return found


def table(name: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def result(path: str) -> dict[str, Any]:
    """A result file."""
    return json.loads((FOLDER / "results" / path).read_text())


@pytest.mark.parametrize(
    "name, path",
    [
        ("input", "input/benchmark.json"),
        ("step", "step/benchmark.json"),
        ("step", "step/operators.json"),
        ("two_machines", "two_machines/two_machines.json"),
        ("ahead", "ahead/ahead.json"),
        ("export", "export/benchmark.json"),
        ("seeds", "embedded/summary.json"),
        ("seeds", "fashion_mnist/summary.json"),
        ("seeds", "embedded_large_batch/summary.json"),
        ("seeds", "cifar10-80sec/summary.json"),
        ("transfer", "transfer/summary.json"),
    ],
)
def test_a_result_was_made_by_the_command_that_is_named(name: str, path: str) -> None:
    """With the same flags."""
    command = result(path)["command"]
    for older, today in OLDER.items():
        command = command.replace(f"experiments.{older}", f"experiments.{today}")
    assert f"`{command}`" in section(name)


def test_every_command_and_every_result_is_there() -> None:
    """Those that are named are modules, and every folder of results is named on both pages."""
    index = (FOLDER / "results" / "README.md").read_text()
    commands = set(re.findall(r"`python -m ([\w.]+)", README + index))
    assert len(commands) >= 7 and all(importlib.util.find_spec(name) for name in commands)
    for folder in (FOLDER / "results").iterdir():
        if folder.is_dir():
            assert f"| `{folder.name}` |" in index and f"results/{folder.name}/" in README
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (FOLDER / path).is_file(), path


def test_the_table_of_the_input() -> None:
    """Line by line that of the page, and the shares that the text names."""
    page = (FOLDER / "results" / "input" / "benchmark.md").read_text().splitlines()
    kept = [[cell.strip() for cell in line[1:-1].split("|")] for line in page]
    rows = table("input")
    assert len(rows) > 10 and all(row in kept for row in rows)
    ratios = result("input/benchmark.json")["ratios"]
    cpu, clock = (ratios[f"preparation_to_opencv{how}"] for how in ("", "_by_the_clock"))
    assert f"{cpu:.0%} of the speed" in section("input")
    assert f"{clock:.0%} by the clock" in section("input")


def test_the_table_of_the_step() -> None:
    """Every rate is the median of its row, of PyTorch and onnxruntime the best."""
    rows = result("step/benchmark.json")["rows"]
    medians = {row["key"]: row["images_per_second"]["median"] for row in rows}
    starts = {"this network": "jax_1x1", "two towers": "jax_1x2", "plain": "jax_plain"}
    starts |= {"PyTorch": "torch_(eager|compiled)", "onnxruntime": "onnx"}
    sessions = ("training_128", "inference_32", "inference_1")
    assert len(table("step")) == len(starts)
    for name, *rates in table("step"):
        (start,) = (key for word, key in starts.items() if name.startswith(word))
        for session, rate in zip(sessions, rates, strict=True):
            found = [v for key, v in medians.items() if re.match(f"{session}/{start}", key)]
            assert rate == (f"{max(found):,.1f}" if found else ""), (name, session)


def test_the_table_of_the_compiled_programs() -> None:
    """All training steps of the result."""
    names = {"h100": "H100", "v5e": "TPU v5e"}
    expected = [
        [
            names[row["target"]],
            row["mesh"],
            f"{row['batch']:,}",
            f"{row['moved'] / 1e9:.2f}",
            f"{row['temporaries'] / 1e9:.2f}",
            f"{row['cycles'] / 1e6:.1f}" if row["cycles"] else "",
            f"{sum(one['bytes'] for one in row['collectives']) / 1e6:,.1f}",
        ]
        for row in result("ahead/ahead.json")["programs"]
        if row["mode"] == "training"
    ]
    assert table("ahead") == expected


def test_the_table_of_the_exports() -> None:
    """Sizes, errors and medians of each precision."""
    rows = {(r["network"], r["precision"]): r for r in result("export/benchmark.json")["rows"]}
    expected = []
    for precision in ("float32", "float16", "int8"):
        run, full = rows["run", precision], rows["full", precision]
        one, many = (full[f"wall_milliseconds_{count}"]["median"] for count in (1, 32))
        sizes = f"{run['megabytes']:.1f}", f"{full['megabytes']:.1f}"
        cells = [precision, sizes[0], f"{run['top1_error']:.2%}", sizes[1]]
        expected.append([*cells, f"{one:.1f}", f"{many:.0f}"])
    assert table("export") == expected


def test_the_table_of_the_transfer() -> None:
    """The means over the seeds, recomputed from the runs."""
    summary = result("transfer/summary.json")
    names = {"drawn weights": "drawn", "the other network's": "taken"}
    assert len(table("transfer")) == 4
    for name, rate, error, loss in table("transfer"):
        runs = [
            run
            for run in summary["runs"]
            if run["start"] == names[name] and run["rate"] == float(rate)
        ]
        assert len(runs) == 3
        assert error == f"{sum(run['top1_error_ten_views'] for run in runs) / 3:.1%}"
        assert loss == f"{sum(run['test_loss_ten_views'] for run in runs) / 3:.2f}"
    assert f"took {summary['seconds'] / 60:.0f} minutes" in section("transfer")


def test_the_table_of_the_ensemble() -> None:
    """Every row in ten views."""
    expected = []
    for row in result("ensemble/ensemble.json")["rows"]:
        low, high = (100 * end for end in row["top1_interval"])
        error = f"{row['top1_error']:.2%} ({low:.2f}-{high:.2f})"
        if row["views"] == 10:
            expected.append([row["way"], f"{row['examples']:,}", error, f"{row['loss']:.4f}"])
    assert table("ensemble") == expected


def test_the_times_of_the_seeds() -> None:
    """All five, and Fashion-MNIST."""
    seconds = [run["seconds"] for run in result("embedded/summary.json")["runs"]]
    assert len(seconds) == 5
    assert f"took {sum(seconds):.0f} seconds" in section("seeds")
    runs = result("fashion_mnist/summary.json")["runs"]
    words = " ".join(section("seeds").split())
    for views, after in (("10", "% in ten views"), ("1", "% in one")):
        errors = [f"{100 * run['test'][views]['top1_error']:.2f}" for run in runs]
        assert f"{', '.join(errors[:-1])} and {errors[-1]}{after}" in words
    minutes = result("fashion_mnist/cpu.json")["longest_seconds"] / 60
    assert f"took {minutes:.0f} minutes" in words
    took = [f"{run['seconds']:.0f}" for run in runs]
    assert f"after {', '.join(took[:-1])} and {took[-1]} seconds" in words


def test_the_errors_in_large_steps() -> None:
    """Those of the five seeds, as they stand in the summaries, beside those of small steps."""
    errors = {
        name: [run["test"]["10"]["top1_error"] for run in result(f"{name}/summary.json")["runs"]]
        for name in ("embedded", "embedded_large_batch")
    }
    *others, last = (f"{error:.2%}" for error in errors["embedded_large_batch"])
    text = " ".join(section("seeds").split())
    assert f"{', '.join(others)} and {last} top-1 error in ten views" in text
    means = {name: sum(found) / len(found) for name, found in errors.items()}
    assert f"{means['embedded_large_batch']:.2%} on average" in text
    assert f"steps of 64 have {means['embedded']:.2%}" in text
