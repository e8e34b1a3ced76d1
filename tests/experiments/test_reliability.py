"""The campaign that breaks things: its short form passes, and it sees what must not be."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.data import decoding
from experiments.reliability import damage, mutants, small
from experiments.reliability.__main__ import PARTS, page, summary
from experiments.reliability.case import EXACT, FAILED, REFUSED, Ended

ROOT = Path(__file__).parents[2]


def test_the_short_campaign(tmp_path: Path) -> None:
    """Kills, SIGTERM, a full disk, damage and mutants: nothing is lost; resumed, it is done."""
    command = [sys.executable, "-m", "experiments.reliability", "--quick", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "reliability.json").read_text())
    assert result["parts"].keys() == {*PARTS}
    assert [failure for part in result["parts"].values() for failure in part["failures"]] == []
    outcomes = {name: part["outcomes"] for name, part in result["parts"].items()}
    assert all(outcomes[name][EXACT] > 0 for name in outcomes)
    assert all(outcomes[name][REFUSED] > 0 for name in ("images", "weights", "configurations"))


@pytest.mark.parametrize(
    ("ended", "complaint"),
    [
        (Ended(0, "fine\n", ""), None),
        (Ended(1, "", "error: W: no space left\n"), None),
        (Ended(2, "", "error: --config.seed=-1\n"), None),
        (Ended(1, "", "oh\n"), "exit code 1 with 0 errors"),
        (Ended(1, "", "error: a\nerror: b\n"), "exit code 1 with 2 errors"),
        (Ended(-11, "", ""), "exit code -11"),
        (Ended(0, "Traceback (most recent call last):\n  ...\nKeyError: 3\n", ""), "KeyError: 3"),
    ],
)
def test_what_no_user_may_see(ended: Ended, complaint: str | None) -> None:
    found = ended.complaint()
    assert found is None if complaint is None else complaint in (found or "")


def test_a_failure_has_its_place_on_the_page() -> None:
    outcomes = [{"word": word, "detail": f"{word}!"} for word in (EXACT, FAILED, REFUSED, EXACT)]
    rows = [{"key": "config.json altered", "part": "damage", "seconds": 1.5, "outcomes": outcomes}]
    found = summary("damage", rows)
    assert (found["tried"], found["outcomes"][EXACT], found["seconds"]) == (4, 2, 2)
    assert found["failures"] == ["config.json altered: failed!"]
    machine = {"packages": {}, "processor": "P", "cores": 2, "python": "3", "commit": "c"}
    made = {"machine": machine, "load_average": {"before": [0]}, "command": "x", "minutes": 1}
    text = page({**made, "parts": {"damage": found}})
    assert "- config.json altered: failed!" in text and "| damage" in text


def test_damage_changes_the_bytes_and_is_the_same_for_a_seed() -> None:
    data = bytes(range(256)) * 8
    found = [mutants.damaged(data, random.Random(seed)) for seed in range(50)]
    assert found == [mutants.damaged(data, random.Random(seed)) for seed in range(50)]
    assert sum(content != data for content in found) > 45
    assert mutants.damaged(b"", random.Random(0)) is not None


def test_a_mutant_that_comes_to_another_end_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(content: bytes, size: int) -> np.ndarray:
        if len(content) % 2:
            raise ZeroDivisionError("planted")
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(decoding, "load", load)
    mutants.main("images", "0", "20")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = [line["failed"] for line in lines if "failed" in line]
    assert failed and all("ZeroDivisionError: planted" in text for text in failed)
    assert lines[-1]["counts"]["failed"] == len(failed)
    assert lines[-1]["counts"]["failed"] + lines[-1]["counts"]["accepted"] == 20


def test_what_is_not_damaged_is_read() -> None:
    """Or the mutants would test nothing."""
    for form, content in mutants.encoded_images():
        assert decoding.load(content, 32).shape == (32, 32, 3), form


def test_every_way_of_damage_is_one(tmp_path: Path) -> None:
    """Told by a training that looks at its directory and does nothing."""
    (tmp_path / "halfway").mkdir()
    (tmp_path / "halfway/config.json").write_text('{"seed": 0}')
    seen = []

    class Looking(small.Small):
        def __init__(self) -> None:
            self.halfway = tmp_path / "halfway"

        def train(self, workdir: Path, *flags: str, **options: object) -> Ended:
            try:
                seen.append((workdir / "config.json").read_bytes())
            except OSError as error:
                seen.append(type(error).__name__.encode())
            return Ended(1, "", "error: no\n")

    for way in damage.WAYS:
        found = damage.damaged(Looking(), tmp_path / way, "config.json", way)
        assert found.word == REFUSED
    deleted, truncated, altered, unreadable = seen
    assert deleted == b"FileNotFoundError" and unreadable == b"OSError"
    assert b'{"seed": 0}'.startswith(truncated) and 0 < len(truncated) < 11
    assert len(altered) == 11 and altered != b'{"seed": 0}'
