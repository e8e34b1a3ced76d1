"""What the README says is what the program prints and what the result files hold."""

import importlib
import json
import math
import re
import shlex
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest
from absl.testing import flagsaver

from alexnet_jax import __main__ as all_commands
from alexnet_jax import main as training
from alexnet_jax import settings
from alexnet_jax.model import Network
from alexnet_jax.pictures.network_table import network_table
from experiments import labnotes, starts, why

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "experiments" / "results"


def result(path: str) -> Any:
    """A result file."""
    return json.loads((RESULTS / path).read_text())


def test_its_length() -> None:
    """What is longer moves to where it belongs."""
    assert len(README.splitlines()) <= 240


def test_the_table_is_that_of_describe() -> None:
    """Line by line."""
    assert network_table(Network()) in README


def test_the_promised_errors_are_the_measured_ones() -> None:
    """Of the five seeds and of Fashion-MNIST, to the digits that are printed."""
    runs = result("embedded/summary.json")["runs"]
    errors = [run["test"]["10"]["top1_error"] for run in runs]
    assert ", ".join(f"{error:.2%}" for error in errors) in README
    assert f"the worst of them: {max(errors):.2%}" in README
    seconds = [run["seconds"] for run in runs]
    assert f"{min(seconds):.0f} to {max(seconds):.0f} seconds" in " ".join(README.split())
    runs = result("fashion_mnist/summary.json")["runs"]
    ten, one = ([run["test"][views]["top1_error"] for run in runs] for views in ("10", "1"))
    means = f"{statistics.mean(ten):.2%} top-1 error in ten views** ({statistics.mean(one):.2%} in"
    assert f"**{means} one)" in README
    assert f"three seeds, {min(ten):.2%} to {max(ten):.2%}".replace("% to", " to") in README
    assert len(runs) == 3 and {run["test"]["10"]["examples"] for run in runs} == {10_000}
    seconds = [round(run["seconds"]) for run in runs]
    assert f"each {min(seconds)} to {max(seconds)} seconds on an NVIDIA H200" in README
    minutes = result("fashion_mnist/cpu.json")["longest_seconds"] / 60
    assert f"takes {minutes:.0f} minutes ([cpu.json]" in README


def test_the_starts_are_the_measured_ones() -> None:
    """The step by which all seeds of a network have started, or that none has."""
    runs = result("starts/starts.json")["runs"]
    assert {run["seed"] for run in runs} == {0, 1, 2} and {run["batch"] for run in runs} == {128}
    of = {name: [run for run in runs if run["variant"] == name] for name in starts.VARIANTS}
    last = {
        name: max(starts.started_for_good(run) or math.inf for run in own)
        for name, own in of.items()
    }
    words = " ".join(README.partition("**All three start**")[2].partition("\n\n")[0].split())
    assert f"`paper` is a tenth below chance for good by step {last['paper']}," in words
    leap = max(max(run["losses"]) for run in of["reconciled"])
    assert f"that of `source` by {last['source']}, that of `reconciled`, which first" in words
    assert f"first leaps to {leap:.1f}, by {last['reconciled']}." in words
    assert f"`reconciled` takes {last['unit-pixels']} steps" in words
    assert {starts.started(run) for run in of["paper-unit-pixels"]} == {None}
    assert "`paper` stays at chance for all 300" in words


def test_what_is_said_of_the_towers_is_measured() -> None:
    """In how many networks they differ, and what silencing one costs."""
    words = " ".join(README.split())
    (extra,) = result("claims/kernels.json")["embedded_hard"]["extra"]
    count = re.match(r"In (\d+ of \d+) runs", extra)
    assert count and f"In {count[1]} networks the towers differ" in words
    hues, patterns = result("claims/lesions.json")["embedded_hard"]["comparisons"]
    other, coloured = (
        [f"{statistics.mean(of[tower]):.0f}" for of in (hues, patterns)]
        for tower in ("base", "other")
    )
    assert f"costs {coloured[0]} points of accuracy in hue and {coloured[1]} in pattern" in words
    assert f"silencing the other {other[0]} and {other[1]}." in words


def test_the_rates_of_the_gpu_are_the_measured_ones() -> None:
    """Now and before, of PyTorch, and in large steps."""
    pages = {name: result(f"h200/{name}.json") for name in ("benchmark", "before", "pytorch")}
    assert pages["benchmark"]["machine"]["cards"] == ["NVIDIA H200"]
    rates = {
        (page, row["key"]): f"{row['images_per_second']['median']:,.0f}"
        for page, found in pages.items()
        for row in found["rows"]
    }
    eager = "torch_eager_channels_last_band"
    now = {key: rates["benchmark", f"{key}/jax_1x1"]
           for key in ("training_128", "training_1024", "inference_32")}  # fmt: skip
    words = " ".join(README.split())
    assert f"trains {now['training_128']} a second in steps of 128" in words
    assert (
        f"({rates['before', 'training_128/jax_1x1']} before the change below; PyTorch eager"
        in words
    )
    assert f"another day, {rates['pytorch', f'training_128/{eager}']}) and answers" in words
    answers = f"answers {now['inference_32']} in batches of 32 (PyTorch eager"
    assert f"{answers} {rates['benchmark', f'inference_32/{eager}']})" in words
    assert f"| {now['training_1024']}, on an H200 " in README


def test_the_speed_table_is_from_the_benchmark() -> None:
    """Every rate is the median of its row, and made by the command that is named."""
    found = result("step/benchmark.json")
    medians = {row["key"]: row["images_per_second"]["median"] for row in found["rows"]}
    section = README.partition("## Speed")[2].partition("\n## ")[0]
    assert re.sub(r"experiments\.\w+", "experiments.step", found["command"]) in section
    table, _, rest = section.partition("\n\nImages a second")
    head, _, *lines = (line for line in table.splitlines() if line.startswith("|"))
    sessions = ("training_128", "inference_32", "inference_1")
    assert len(head.split("|")) == 2 + 1 + len(sessions) and len(lines) >= 4
    for line in lines:
        name, *rates = (cell.strip() for cell in line.strip("|").split("|"))
        starts = {"this network": "jax_1x1", "two towers": "jax_1x2"}
        starts |= {"PyTorch": "torch_(eager|compiled)", "onnxruntime": "onnx"}
        (start,) = (key for word, key in starts.items() if name.startswith(word))
        for session, rate in zip(sessions, rates, strict=True):
            of_start = [v for key, v in medians.items() if re.match(f"{session}/{start}", key)]
            assert rate == (f"{max(of_start):,.1f}" if of_start else ""), (name, session)
    rows = {row["key"]: row for row in result("input/benchmark.json")["rows"]}
    (crops,) = (row for key, row in rows.items() if "host" in row["name"])
    assert f"{crops['images_per_second']['median']:,.0f} crops a second" in rest


def test_the_table_of_compiled_programs() -> None:
    """What is said to be now is what was compiled; what was before stands in the notes."""
    programs = {
        (row["target"], row["mesh"], row["batch"]): row
        for row in result("ahead/ahead.json")["programs"]
        if row["mode"] == "training" and row["dtype"] == "bfloat16"
    }
    h100, v5e, two = (
        programs[key] for key in (("h100", "1x1", 1024), ("v5e", "1x1", 128), ("v5e", "1x2", 128))
    )
    now = [
        f"{h100['moved'] / 1e9:.1f} GB moved, {h100['temporaries'] / 1e9:.1f} GB temporary",
        f"{v5e['cycles'] / 1e6:.1f} M cycles",
        f"{two['cycles'] / 1e6:.1f} M cycles",
    ]
    (line,) = (line for line in README.splitlines() if line.startswith("| now "))
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == now
    notes = (ROOT / "experiments/results/ahead/notes.md").read_text()
    (line,) = (line for line in README.splitlines() if line.startswith("| before  "))
    before = re.findall(r"\d+\.\d", line)
    assert len(before) == 4 and all(f" {number} " in notes for number in before)


def test_why_the_network_in_the_package_and_what_was_broken() -> None:
    """Shares, errors and counts."""
    words = " ".join(README.split())
    found = {
        (game["network"], game["map"]): game
        for game in result("why/why.json")["games"]
        if game["objects"] == "hard, beside the middle"
    }
    seen, guess, gradient, before = (
        f"{found[key][what]:.0%}"
        for key, what in (
            (("trained", "occlusion"), "found"),
            (("trained", "occlusion"), "blindly"),
            (("trained", "saliency"), "found"),
            (("drawn weights", "saliency"), "found"),
        )
    )
    drawn = f"{found['drawn weights', 'occlusion']['found']:.0%}"
    assert f"in {seen} of images ({drawn} before training; a place drawn blindly, {guess})" in words
    assert f"the gradient in {gradient} ({before} before training: that cannot be told" in words
    games = result("why/why.json")["games"]
    told = [why.against_drawn(found["trained", map], games) for map in ("occlusion", "saliency")]
    assert [float(one.rpartition(" ")[2]) < 0.05 for one in told] == [True, False]
    errors = result("included/summary.json")["top1_error"]["rounded"]
    assert f"{errors['1']:.2%} top-1 error in one view, {errors['10']:.2%} in ten." in words
    tried = sum(part["tried"] for part in result("reliability/reliability.json")["parts"].values())
    assert f"in {tried:,} ways" in words


def test_the_runs_of_2012_are_those_of_the_lab_notes() -> None:
    """Name and errors, in ten views but where one is said."""
    section = README.partition("## What the paper says")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| 1")]
    cells = [half for row in rows for half in (row[:3], row[3:])]
    told = set()
    for name, what, errors in cells:
        note, views = labnotes.BY_NAME[name.strip()], 1 if "in one view" in what else 10
        (found,) = [found for found in note.errors if found.views == views]
        assert note.claimed and errors.strip() == f"{found.top1:.2f}, {found.top5:.2f}"
        told.add((note.name, views))
    assert told == {
        (note.name, found.views) for note in labnotes.NOTES if note.claimed for found in note.errors
    }


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


COMMANDS = re.findall(r"(?:^    |`)(python -m (?!\w+ COMMAND)[^`#\n]+)", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its flags parse, with the values that the README gives them."""
    monkeypatch.chdir(tmp_path)
    _, _, module, *arguments = shlex.split(command)
    if module == "alexnet_jax":
        name, *arguments = arguments
        assert name in {**all_commands.MODES, **all_commands.COMMANDS}
        arguments = [f"--mode={name}", *arguments]
        module = "alexnet_jax.main"
    if module == "alexnet_jax.main":
        training.define_flags()
        with flagsaver.flagsaver():
            fields = training.parse_flags(arguments)
            config = training.FLAGS.config
            if config and not config.endswith(".py"):
                settings.override(settings.load(config), fields)
        return
    found = importlib.import_module(module)
    if module.startswith("experiments"):
        found = importlib.import_module(
            f"{module}.__main__" if hasattr(found, "__path__") else module
        )
        assert callable(found.main)
        return
    assert isinstance(vars(found.parse_flags(arguments)), dict)


def test_the_repository_has_one_address() -> None:
    """In the package, on the badge, and in the notebook that installs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Source"]
    path = address.removeprefix("https://github.com/")
    notebook = (ROOT / "experiments" / "notebooks" / "alexnet.py").read_text()
    assert f"pip install -q git+{address}\n" in notebook
    for text in (README, notebook):
        assert re.findall(r"/github/([\w-]+/[\w-]+)/blob", text) == [path]
