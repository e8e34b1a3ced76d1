"""The experiments that train: on the smallest run, by their commands, in a copy of the code."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import run_fixtures
from PIL import Image
from run_fixtures import Tiny

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.errors import UserError
from experiments.figure4 import ANSWERS, choose
from experiments.shared import runs
from experiments.shared.command import Results
from experiments.shared.machine import made_by
from experiments.transfer import KNOWN, NEW, half

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"


class Checkout(NamedTuple):
    """A copy of the experiments, in which anything may be written."""

    root: Path
    tiny: Tiny

    def run(self, name: str, *arguments: str) -> str:
        """Runs an experiment as one does, from the root of the checkout; what it said on stderr."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.tiny.root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, "-m", f"experiments.{name}", f"--config={self.tiny.config}"]
        done = subprocess.run(
            [*command, *arguments], cwd=self.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def files(self) -> dict[str, bytes]:
        """All of it but the results that lie in the root."""
        paths = [path for path in self.root.rglob("*") if path.is_file()]
        names = {path: str(path.relative_to(self.root)) for path in paths}
        return {n: path.read_bytes() for path, n in names.items() if not n.startswith("results-")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Checkout:
    """Without the results, which are large."""
    root = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "results", "notebooks")
    shutil.copytree(ROOT / "experiments", root / "experiments", ignore=ignored)
    (root / "experiments" / "results" / "ensemble").mkdir(parents=True)
    (root / "experiments" / "results" / "ensemble" / "ensemble.json").write_text("older")
    return Checkout(root, tiny)


@pytest.fixture(scope="module")
def pictures(checkout: Checkout) -> dict[str, Any]:
    """Figure 4 by default flags but for the configuration; what its JSON file says."""
    before = checkout.files()
    checkout.run("figure4")
    assert checkout.files() == before  # nothing is written where results are published
    out = checkout.root / "results-figure4"
    names = ["W", "answers.jpg", "figure4.json", "neighbours.jpg", "trained.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == names
    return json.loads((out / "figure4.json").read_text())


def test_results_in_the_repository_are_ignored_by_git(checkout: Checkout) -> None:
    """An experiment that is started in the root leaves it clean."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is no git repository")
    done = subprocess.run(["git", "check-ignore", "results-figure4/W/config.json"], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.slow
def test_figure4_has_both_halves(checkout: Checkout, pictures: dict[str, Any]) -> None:
    """Eight answers in two rows, five queries; of the test split, of all classes alike."""
    out = checkout.root / "results-figure4"
    for name in ("answers.jpg", "neighbours.jpg"):
        with Image.open(out / name) as drawn, Image.open(RESULTS / "figure4" / name) as published:
            assert drawn.width == published.width and drawn.height > 0.8 * published.height
    assert pictures["split"] == "test" and len(pictures["chosen"]) == ANSWERS
    names = [one["class_name"] for one in pictures["chosen"]]
    assert sorted(names) == ["a", "a", "b", "b", "c", "c", "d", "d"]
    for one in pictures["chosen"]:  # six images of each class, in order
        assert "abcd"[one["number"] // 6] == one["class_name"]


@pytest.mark.slow
def test_figure4_says_how_it_was_made(checkout: Checkout, pictures: dict[str, Any]) -> None:
    """The commands, as one would type them in the folder of the results."""
    config = checkout.tiny.config
    assert pictures["command"] == f"python -m experiments.figure4 --config={config}"
    assert pictures["machine"]["commit"] == "unknown"
    training, asking, looking = pictures["commands"]
    start = "python -m alexnet_jax."
    assert training == f"{start}main --workdir=W --config={config} --config.epochs=1"
    files = " ".join(
        f"images/{one['class_name']}/{one['number']}.png" for one in pictures["chosen"]
    )
    assert asking == f"{start}predict --workdir=W --figure=answers.jpg {files}"
    flags = "--split=test --queries=5 --neighbours=neighbours.jpg"
    assert looking == f"{start}features --workdir=W {flags}"


@pytest.mark.slow
def test_ensemble_resumes_and_publishes(checkout: Checkout, pictures: dict[str, Any]) -> None:
    """One of the networks is trained already: it is not trained again. What is published is what
    `--mode=evaluate` found, in the form of the result that is in the repository."""
    del pictures  # has trained it
    before = checkout.files()
    out = checkout.root / "results-ensemble"
    shutil.copytree(checkout.root / "results-figure4" / "W", out / "W0")
    said = checkout.run("ensemble", "--seeds=0,1", "--epochs=1", "--publish")
    assert said.count("step      4/8") == 1  # of seed 1
    published = checkout.root / "experiments" / "results" / "ensemble" / "ensemble.json"
    assert checkout.files() == before | {
        str(published.relative_to(checkout.root)): (out / "ensemble.json").read_bytes()
    }
    result = json.loads(published.read_text())
    committed = json.loads((RESULTS / "ensemble" / "ensemble.json").read_text())
    for name in ("command", "machine", "dataset", "fingerprint", "split", "searched_weights"):
        assert name in committed and name in result
    assert result["rows"][0].keys() == committed["rows"][0].keys()
    assert result["runs"] == [{"workdir": "W0", "step": 8}, {"workdir": "W1", "step": 8}]
    start = f"--config={checkout.tiny.config} --config.epochs=1 --config.seed"
    assert result["commands"] == [
        f"python -m alexnet_jax.main --workdir=W0 {start}=0",
        f"python -m alexnet_jax.main --workdir=W1 {start}=1",
        "python -m alexnet_jax.main --workdir=W0 --mode=evaluate --ensemble=W1",
    ]
    rows = {(row["way"], row["views"]): row for row in result["rows"]}
    for number, workdir in enumerate(("W0", "W1"), 1):
        alone = [row for row in run_fixtures.rows(out / workdir) if row["split"] == "test"]
        assert len(alone) == 2
        for row in alone:
            found = rows[f"network {number}", row["views"]]
            assert found["top1_error"] == row["top1_error"]
            assert found["loss"] == pytest.approx(row["loss"], rel=1e-4)


def test_a_run_that_is_kept_is_of_its_command_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other epochs in the same folder would be the network of before; and what a folder had
    already is of the commit at which it was begun, not of today's."""
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(runs, "call", lambda *words: called.append(words))
    asked = argparse.Namespace(command="x", out=tmp_path, publish=False)
    for commit in ("before", "today"):
        results = Results("why", asked)
        results.machine["commit"] = commit
        line = runs.train(results, "W", "embedded", ["epochs=2"])
        assert line == "python -m alexnet_jax.main --workdir=W --config=embedded --config.epochs=2"
        assert results.made_by()["trained_at"] == ["before"]
        assert f"commit {commit}, runs begun at before. Load" in made_by(results.made_by(), ())
    assert len(called) == 2  # the second time it finds that nothing is left to do
    with pytest.raises(UserError, match=r"W was trained by .*epochs=2`, .*epochs=4`: name another"):
        runs.train(results, "W", "embedded", ["epochs=4"])
    assert len(called) == 2


def test_an_ensemble_has_two_networks(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one there is nothing to combine."""
    from experiments import ensemble

    with pytest.raises(SystemExit) as ended:
        ensemble.main(["--seeds=3"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --seeds: name two or more")


# --- what is chosen -------------------------------------------------------------------------------


def some_cache(labels: list[int], classes: int) -> Cache:
    """A cache of one-pixel images, each of its own grey level; test images are the training ones
    from behind."""
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    return Cache(
        path="",
        name="some",
        size=1,
        class_names=tuple(f"class {number}" for number in range(classes)),
        mean_image=np.zeros((1, 1, 3), np.float32),
        eigenvalues=np.ones(3),
        eigenvectors=np.eye(3),
        images={"train": pixels, "test": pixels[::-1]},
        labels={"train": np.array(labels), "test": np.array(labels[::-1])},
        fingerprint="some",
    )


def test_images_are_of_as_many_classes_as_there_are_places() -> None:
    """The first of each class that a lot has drawn; the same ones every time."""
    cache = some_cache([number // 3 for number in range(60)], 20)
    chosen = list(choose(cache, "train"))
    assert chosen == list(choose(cache, "train"))
    assert len({one.class_name for one in chosen}) == len(chosen) == 8
    assert all(
        one.class_name == f"class {one.number // 3}" and one.number % 3 == 0 for one in chosen
    )
    assert {one.number for one in chosen} != set(range(0, 24, 3))
    few = list(choose(some_cache([0, 1, 1], 2), "train"))
    assert sorted(few) == [("class 0", 0), ("class 1", 1), ("class 1", 2)]


def test_the_halves_of_the_transfer_share_no_class() -> None:
    """All images of ten classes; of the other ten a few of each for training, which the seed
    draws, and all for the test."""
    cache = some_cache([number % 20 for number in range(200)], 20)
    known, few = half(cache, KNOWN, None, 0), half(cache, NEW, 3, 0)
    assert not set(known.class_names) & set(few.class_names)
    for source, first, train in ((known, 0, 100), (few, 10, 30)):
        assert len(source.class_names) == 10
        assert (len(source.splits["train"]), len(source.splits["test"])) == (train, 100)
        for split in source.splits.values():
            records = [split[number] for number in range(len(split))]
            labels = [record.label for record in records]
            assert np.bincount(labels, minlength=10).tolist() == [len(split) // 10] * 10
            for record in records:  # an image is its number among all
                assert int(np.asarray(record.content).ravel()[0]) % 20 - first == record.label
    other = half(cache, NEW, 3, 1)
    assert not np.array_equal(other.splits["train"].indices, few.splits["train"].indices)
