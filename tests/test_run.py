"""Whole runs, in real processes: killed, stopped, moved to other devices, and gone on with."""

import random
import signal
import time
from pathlib import Path

import pytest
import run_fixtures as fixtures
from run_fixtures import Tiny

# A save every half epoch takes longer than the four steps between two, so a kill seldom misses one.
LONG = ("--config.epochs=15", "--config.checkpoint_every=0.5")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.getbasetemp() / "tiny"
    root.mkdir(exist_ok=True)
    return Tiny(root)


@pytest.fixture(scope="module")
def unbroken(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 steps without a break."""
    workdir = tmp_path_factory.mktemp("unbroken")
    tiny.train(workdir, *LONG)
    return workdir


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_a_run_ends_bit_for_bit_as_an_unbroken_one(
    tiny: Tiny, unbroken: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    arguments = (f"--workdir={tmp_path}", f"--config={tiny.config}", *LONG)
    process = tiny.start(*arguments)
    time.sleep(rng.uniform(0.5, 2.5))  # while it imports or compiles
    fixtures.kill(process)
    for target in sorted(rng.sample(range(1, 40), 3)):  # of 47 rows
        rows = max(target, fixtures.row_count(tmp_path) + 1)
        process = tiny.start(*arguments)
        assert fixtures.wait_until(process, lambda n=rows: fixtures.row_count(tmp_path) >= n)
        time.sleep(rng.uniform(0, 0.1))
        fixtures.kill(process)
        assert "test" not in {row["split"] for row in fixtures.rows(tmp_path)}, "killed too late"
    printed = tiny.train(tmp_path, *LONG)
    assert "going on from the checkpoint of step" in printed
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
    tiny: Tiny, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = (*LONG, "--config.checkpoint_every=1000")  # no other checkpoint than the stop's
    process = tiny.start(f"--workdir={tmp_path}", f"--config={tiny.config}", *arguments)
    assert fixtures.wait_until(process, lambda: fixtures.row_count(tmp_path) >= 9)
    process.send_signal(number)
    out, err = process.communicate()
    (step,) = fixtures.checkpoint_steps(tmp_path)
    assert process.returncode == code
    assert err == ""
    assert out.splitlines()[-1] == (
        f"stopped by {number.name}: saved at step {step}; give the same command again to go on"
    )
    printed = tiny.train(tmp_path, *arguments)
    assert f"going on from the checkpoint of step {step}" in printed


def test_stopped_while_it_starts(tiny: Tiny, tmp_path: Path) -> None:
    process = tiny.start(f"--workdir={tmp_path}", f"--config={tiny.config}", *LONG)
    assert process.stdout is not None
    process.stdout.readline()  # it has opened the data and is about to compile
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, err) == (143, "")
    assert out.splitlines()[-1].startswith("stopped by SIGTERM")
