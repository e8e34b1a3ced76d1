"""Whole runs, in real processes: killed, stopped, moved to other devices, and gone on with."""

import random
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
    kills = resumed = 0
    while True:
        process = tiny.start(*arguments)
        # Up to 16 rows more than are there now, and a moment more: about every third step has one.
        target = fixtures.row_count(tmp_path) // 2 + rng.randrange(1, 24)
        if not fixtures.wait_until(process, lambda n=target: fixtures.row_count(tmp_path) >= n):
            out, err = process.communicate()
            break
        time.sleep(rng.uniform(0, 0.1))
        out = fixtures.kill(process)
        resumed += "going on from" in out
        kills += 1
    assert (process.returncode, err) == (0, "")
    assert kills >= 3 and resumed >= 2
    fixtures.assert_same_end(tmp_path, unbroken)
