"""Whole runs, in real processes: killed, stopped, moved to other devices, and gone on with."""

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_fixtures as fixtures
from run_fixtures import Tiny

# A save takes longer than the four steps to the next one, so that few kills miss one. The plateau
# rule drops the rate three times in these 15 epochs, so its state is part of what has to come back.
LONG = (
    "--config.epochs=15",
    "--config.checkpoint_every=0.5",
    "--config.optim.schedule=plateau",
    "--config.optim.patience=1",
)


@pytest.fixture(scope="module")
def unbroken(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 steps without a break."""
    workdir = tmp_path_factory.mktemp("unbroken")
    tiny.train(workdir, *LONG)
    return workdir


def by_split(workdir: Path, split: str) -> list[dict[str, Any]]:
    return [row for row in fixtures.rows(workdir) if row["split"] == split]


# --- killed ---------------------------------------------------------------------------------------


def test_killed_at_random_moments_a_run_ends_bit_for_bit_as_an_unbroken_one(
    tiny: Tiny, unbroken: Path, tmp_path: Path
) -> None:
    """A hundred more are in the campaign `experiments.reliability`."""
    rng = random.Random(0)
    arguments = (f"--workdir={tmp_path}", f"--config={tiny.config}", *LONG)
    process = tiny.start(*arguments)
    time.sleep(rng.uniform(0.5, 2.5))  # while it imports or compiles
    fixtures.kill(process)
    for target in sorted(rng.sample(range(1, 40), 2)):  # of 47 rows
        rows = max(target, fixtures.row_count(tmp_path) + 1)
        process = tiny.start(*arguments)
        assert fixtures.wait_until(process, lambda n=rows: fixtures.row_count(tmp_path) >= n)
        time.sleep(rng.uniform(0, 0.1))
        fixtures.kill(process)
        assert not by_split(tmp_path, "test"), "killed too late"
    printed = tiny.train(tmp_path, *LONG)
    assert "resuming from the checkpoint of step" in printed
    fixtures.assert_same_end(tmp_path, unbroken)


def test_killed_at_the_sight_of_an_unfinished_checkpoint(
    tiny: Tiny, unbroken: Path, tmp_path: Path
) -> None:
    arguments = (f"--workdir={tmp_path}", f"--config={tiny.config}", *LONG)

    def unfinished() -> list[Path]:
        return list(tmp_path.glob("checkpoints/*tmp*"))

    seen = []
    for _ in range(5):  # a rename may come between the look and the kill
        process = tiny.start(*arguments)
        steps = fixtures.checkpoint_steps(tmp_path)[-1:]
        assert fixtures.wait_until(
            process,
            lambda before=steps: fixtures.checkpoint_steps(tmp_path)[-1:] > before and unfinished(),
        )
        fixtures.kill(process)
        seen += unfinished()
        if seen:
            break
    assert seen, "no unfinished checkpoint met"
    tiny.train(tmp_path, *LONG)
    assert not unfinished()
    fixtures.assert_same_end(tmp_path, unbroken)


# --- stopped --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_first_and_goes_on(
    tiny: Tiny, unbroken: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = (*LONG, "--config.checkpoint_every=1000")  # the stop's, and the best
    process = tiny.start(f"--workdir={tmp_path}", f"--config={tiny.config}", *arguments)
    assert fixtures.wait_until(process, lambda: fixtures.row_count(tmp_path) >= 9)
    process.send_signal(number)
    out, err = process.communicate()
    *_, step = fixtures.checkpoint_steps(tmp_path)
    assert process.returncode == code
    assert err == ""
    assert out.splitlines()[-1] == (
        f"stopped by {number.name}: saved at step {step}; give the same command again to resume"
    )
    if number == signal.SIGTERM:
        printed = tiny.train(tmp_path, *arguments)
        assert f"resuming from the checkpoint of step {step}" in printed
        fixtures.assert_same_end(tmp_path, unbroken)


def test_stopped_while_it_starts(tiny: Tiny, tmp_path: Path) -> None:
    process = tiny.start(f"--workdir={tmp_path}", f"--config={tiny.config}", *LONG)
    assert process.stdout is not None
    process.stdout.readline()  # it has opened the data and is about to compile
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, err) == (143, "")
    assert out.splitlines()[-1].startswith("stopped by SIGTERM")


# --- what a run leaves ----------------------------------------------------------------------------


def test_the_plateau_rule_has_dropped_the_rate_in_the_run_that_the_others_are_compared_with(
    unbroken: Path,
) -> None:
    rates = [row["learning_rate"] for row in by_split(unbroken, "train")]
    assert rates[0] == pytest.approx(1e-2) and rates[-1] == pytest.approx(1e-5)
    assert fixtures.arrays(unbroken / "checkpoints/120")["training/plateau.factor"] == (
        pytest.approx(1e-3)
    )


def test_the_last_three_checkpoints_and_the_best_are_kept(unbroken: Path) -> None:
    errors = {row["step"]: row["top1_error"] for row in by_split(unbroken, "validation")}
    kept = fixtures.checkpoint_steps(unbroken)
    assert kept[-3:] == [112, 116, 120]
    assert len(kept) <= 4
    assert min(errors[step] for step in kept if step in errors) == min(errors.values())


def test_a_finished_run_trains_nothing_and_says_its_result_again(
    tiny: Tiny, unbroken: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    # The ten-view half of the result was not written, say by a full disk: it is tested again.
    metrics = workdir / "metrics.jsonl"
    whole = fixtures.rows(workdir)
    metrics.write_text(metrics.read_text()[:-30])
    printed = tiny.train(workdir, *LONG)
    assert "this run is complete: 120 steps" in printed
    assert "testing" in printed
    assert fixtures.rows(workdir) == whole
    before = metrics.read_bytes()
    done = tiny.run(f"--workdir={workdir}")  # its own config.json is configuration enough
    assert (done.returncode, done.stderr) == (0, "")
    assert "testing" not in done.stdout
    assert printed[printed.index("test, last step") :] in done.stdout
    assert metrics.read_bytes() == before


@pytest.mark.parametrize("data", [1, 4])
def test_evaluation_on_other_devices_gives_the_errors_of_the_run(
    tiny: Tiny, unbroken: Path, data: int
) -> None:
    tower = 1 if data == 1 else 2
    mesh = (f"--config.mesh.data={data}", f"--config.mesh.tower={tower}")
    done = tiny.run(f"--workdir={unbroken}", "--mode", "evaluate", *mesh)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"mesh of {data} x {tower}" in done.stdout
    one, ten = by_split(unbroken, "test")
    lines = done.stdout.splitlines()[-2:]
    for line, row, views in zip(lines, (one, ten), ("one view", "ten views")):
        assert line.startswith(f"top-1 error {row['top1_error']:.2%}, top-5 error 0.00%, loss ")
        assert line.endswith(f" in {views} of 24 images")
        loss = float(line.partition("loss ")[2].split()[0])
        assert loss == pytest.approx(row["loss"], abs=1e-4)


def test_evaluation_of_the_best_checkpoint(tiny: Tiny, unbroken: Path) -> None:
    """By its validation error, which is not the last checkpoint here."""
    errors = {row["step"]: row["top1_error"] for row in by_split(unbroken, "validation")}
    kept = [step for step in fixtures.checkpoint_steps(unbroken) if step in errors]
    best = min(kept, key=errors.__getitem__)
    assert best != 120, "nothing compared"
    for flags, step in (((), 120), (("--best",), best)):
        done = tiny.run(f"--workdir={unbroken}", "--mode=evaluate", *flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"step {step} of {unbroken}, ")


def test_a_run_moves_to_other_devices(tiny: Tiny, tmp_path: Path) -> None:
    """From two to one, and from that to two times two: with the numbers of one that stays."""
    # Shares of the whole run, whose length changes here.
    steady = (
        "--config.optim.drops=()",
        "--config.optim.bias_drops=()",
        "--config.data.lighting_until=1.0",
        "--config.optim.learning_rate=0.001",
    )

    stays, moves = tmp_path / "stays", tmp_path / "moves"
    tiny.train(stays, *steady, "--config.epochs=2")
    shutil.copytree(stays, moves)
    shutil.rmtree(moves / "checkpoints/16")
    for data, tower, epochs, start in ((1, 1, 1.5, 8), (2, 2, 2, 12)):
        devices = (f"--config.mesh.data={data}", f"--config.mesh.tower={tower}")
        printed = tiny.train(moves, *steady, *devices, f"--config.epochs={epochs}")
        assert f"mesh of {data} x {tower}" in printed
        assert f"resuming from the checkpoint of step {start}" in printed
    losses = [[row["loss"] for row in by_split(run, "train")] for run in (moves, stays)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)
    fixtures.assert_same_end(moves, stays, tolerance=1e-5)


def test_a_run_and_its_images_move(tiny: Tiny, unbroken: Path, tmp_path: Path) -> None:
    """And paths that are relative where they are given are not where they are saved."""
    workdir = tmp_path / "moved"
    shutil.copytree(unbroken, workdir)
    shutil.copytree(tiny.root / "images", tmp_path / "pictures")
    shutil.copytree(tiny.root / "images", tmp_path / "others")
    first = min((tmp_path / "others" / "train").rglob("*.png"))
    shutil.copy(max((tmp_path / "others" / "train").rglob("*.png")), first)
    before = {name: (workdir / name).read_bytes() for name in ("config.json", "metrics.jsonl")}

    def train(images: str, *more: str) -> Any:
        arguments = ("--workdir=moved", f"--config.data.source=folder:{images}", *more)
        return tiny.run(*arguments, "--config.data.dir=data", cwd=tmp_path)

    done = train("others")
    assert done.returncode == 1
    assert "was trained on other data than" in done.stderr and len(done.stderr.splitlines()) == 1
    assert before == {name: (workdir / name).read_bytes() for name in before}
    done = train("pictures", "--config.epochs=1")  # of the 15 that it has
    assert (done.returncode, done.stderr) == (0, "")
    assert "this run is complete: 120 steps" in done.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]
    expected = json.loads(before["config.json"])
    expected["data"] |= {"source": f"folder:{tmp_path}/pictures", "dir": f"{tmp_path}/data"}
    assert json.loads((workdir / "config.json").read_text()) == expected
    # A disk that is not mounted, or somebody who needed the space.
    (workdir / "checkpoints").rename(tmp_path / "elsewhere")
    done = train("pictures")
    assert done.returncode == 1
    assert "has metrics up to step 120 but no checkpoint" in done.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]


# --- alarms ---------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tiny: Tiny, tmp_path: Path
) -> None:
    tiny.train(tmp_path, "--config.epochs=1")
    good = fixtures.arrays(tmp_path / "checkpoints/8")
    # The rate may not change in a run, so it is changed behind its back.
    config = json.loads((tmp_path / "config.json").read_text())
    config["optim"] |= {"learning_rate": 1e20, "drops": [], "bias_drops": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = tiny.run(f"--workdir={tmp_path}", "--config.epochs=3", "--config.log_every=1")
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: the loss or a weight was not a finite number at step (9|10|11); the checkpoint of "
        r"step 8 is kept\. Lower --config\.optim\.learning_rate and start in another --workdir\.\n",
        done.stderr,
    ), done.stderr
    assert fixtures.checkpoint_steps(tmp_path) == [8]
    after = fixtures.arrays(tmp_path / "checkpoints/8")
    assert all(np.array_equal(good[name], after[name]) for name in good)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
