"""What the README says is what the program prints and what the result files hold."""

import json
import re
from pathlib import Path

from alexnet_jax import settings
from alexnet_jax.model import Network
from alexnet_jax.pictures.network_table import network_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "experiments" / "results"


def test_the_table_is_that_of_describe() -> None:
    """Line by line."""
    assert network_table(Network()) in README


def test_the_promised_errors_are_the_measured_ones() -> None:
    """The worst of the five seeds, and Fashion-MNIST's, to the digits that are printed."""
    for name in ("embedded", "fashion_mnist"):
        summary = json.loads((RESULTS / name / "summary.json").read_text())
        assert f"{summary['worst_ten_view_top1_error']:.2%}" in README, name
        assert summary["command"] in README, name


def test_in_how_many_runs_the_towers_differ() -> None:
    """Figure 3: the p of every seed, and how many are below 0.05."""
    runs = json.loads((RESULTS / "embedded" / "summary.json").read_text())["runs"]
    chances = [run["colour"]["p"] for run in runs]
    few = sum(chance < 0.05 for chance in chances)
    listed = ", ".join(f"{chance:.3f}" for chance in chances)
    assert f"{few} have towers that differ (p = {listed})" in README


def test_the_embedded_run_keeps_its_promise() -> None:
    """Issue by issue: five seeds, under 20%, at most five minutes."""
    summary = json.loads((RESULTS / "embedded" / "summary.json").read_text())
    assert len({run["seed"] for run in summary["runs"]}) == 5
    assert summary["worst_ten_view_top1_error"] < 0.20
    assert summary["longest_seconds"] <= 300


def test_fashion_mnist_keeps_its_promise() -> None:
    """At most 9% in ten views on all 10,000 test images, in at most 25 minutes, all 60,000 trained
    on, by the last checkpoint and a schedule that looked at none of the test images."""
    folder = RESULTS / "fashion_mnist"
    summary = json.loads((folder / "summary.json").read_text())
    (run,) = summary["runs"]
    assert run["test"]["10"]["examples"] == 10_000
    assert run["test"]["10"]["top1_error"] <= 0.09
    assert run["seconds"] <= 25 * 60
    saved = settings.read(folder / "config.json")
    assert settings.flatten(saved) == settings.flatten(
        settings.override(settings.load("fashion_mnist"), [f"seed={run['seed']}"])
    )
    assert saved.data.validation == "" and saved.data.holdout == 0
    assert saved.optim.schedule == "steps"
    last = run["test"]["10"]["step"]
    assert run["steps"] == last == round(saved.epochs * 60_000 / saved.batch_size)


def test_the_input_table_is_from_the_benchmark() -> None:
    """Line by line, and made by the command that is named."""
    page = (RESULTS / "input" / "benchmark.md").read_text()
    result = json.loads((RESULTS / "input" / "benchmark.json").read_text())
    section = README.partition("## The input")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 10 and set(lines) <= set(page.splitlines())
    assert result["command"] in section
    assert all(target["reached"] for target in result["targets"])


def test_the_speed_table_is_from_the_benchmark() -> None:
    """Every rate is the median of its row, and made by the command that is named."""
    result = json.loads((RESULTS / "step" / "benchmark.json").read_text())
    medians = {row["key"]: row["images_per_second"]["median"] for row in result["rows"]}
    section = README.partition("## Speed")[2].partition("\n## ")[0]
    assert result["command"] in section
    head, _, *lines = (line for line in section.splitlines() if line.startswith("|"))
    sessions = ("training_128", "inference_32", "inference_1")
    assert len(head.split("|")) == 2 + 1 + len(sessions) and len(lines) >= 4
    for line in lines:
        name, *rates = (cell.strip() for cell in line.strip("|").split("|"))
        starts = {"this network": "jax_1x1", "two towers": "jax_1x2", "plain": "jax_plain"}
        starts |= {"PyTorch": "torch", "onnxruntime": "onnx"}
        (start,) = (key for word, key in starts.items() if name.startswith(word))
        for session, rate in zip(sessions, rates, strict=True):
            found = [v for key, v in medians.items() if key.startswith(f"{session}/{start}")]
            assert rate == (f"{max(found):,.1f}" if found else ""), (name, session)


def test_the_ensemble_table_is_what_was_measured() -> None:
    """Every row in ten views, to the digits that are printed."""
    result = json.loads((RESULTS / "ensemble" / "ensemble.json").read_text())
    assert result["command"] in README
    for row in result["rows"]:
        low, high = (100 * end for end in row["top1_interval"])
        line = f"{row['top1_error']:.2%} ({low:.2f}-{high:.2f}) | {row['loss']:.4f} |"
        start = f"| {row['way']} | {row['examples']:,} | "
        assert row["views"] == 1 or start + line in README, row["way"]


def test_the_export_table_is_what_was_measured() -> None:
    """Sizes, errors and medians of each precision."""
    result = json.loads((RESULTS / "export" / "benchmark.json").read_text())
    assert result["command"] in README
    rows = {(row["network"] == "run", row["precision"]): row for row in result["rows"]}
    for precision in ("float32", "float16", "int8"):
        run, full = rows[True, precision], rows[False, precision]
        times = [full[f"wall_milliseconds_{count}"]["median"] for count in (1, 32)]
        line = (
            f"| {precision} | {run['megabytes']:.1f} | {run['top1_error']:.2%} | "
            f"{full['megabytes']:.1f} | {times[0]:.1f} | {times[1]:.0f} |"
        )
        assert line in README


def test_the_transfer_is_what_was_measured() -> None:
    """The four means in the text."""
    summary = (RESULTS / "transfer" / "transfer.md").read_text()
    means = re.findall(r"\| ([\d.]+%) \| [\d.]+ \|$", summary, re.MULTILINE)
    section = README.partition("**Fine-tuning**")[2].partition("\n## ")[0]
    assert len(means) == 4 and all(mean in section for mean in means)


def test_training_did_not_wait_for_data() -> None:
    """Under 1% of any interval that was logged, as the README says."""
    for name in ("embedded", "fashion_mnist"):
        rows = (RESULTS / name / "metrics.jsonl").read_text().splitlines()
        shares = [json.loads(row).get("data_wait_fraction", 0.0) for row in rows]
        assert 0 < max(shares) < 0.01, name


def test_every_file_that_is_named_is_there() -> None:
    """Pictures, modules and tests that the README points at."""
    for path in re.findall(r"\((experiments/[^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:tests|alexnet_jax|experiments)/[\w/.]+\.\w+)`", README):
        assert (ROOT / path).is_file(), path


def test_every_field_that_is_named_exists() -> None:
    """--config.FIELD=... for all the fields in the text."""
    known = settings.flatten(settings.load("imagenet"))
    fields = set(re.findall(r"--config\.([\w.]+)=", README)) - {"FIELD"}
    assert fields and fields <= known.keys(), fields - known.keys()
