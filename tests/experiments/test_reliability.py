"""The campaign that breaks things: its short form passes, and it sees what must not be."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.data import decoding
from experiments.reliability import __main__ as campaign
from experiments.reliability import damage, mutants, small
from experiments.reliability.__main__ import PARTS, page, summary
from experiments.reliability.case import EXACT, FAILED, REFUSED, Ended

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_short_campaign(tmp_path: Path) -> None:
    """Kills, SIGTERM, a full disk, damage and mutants: nothing is lost."""
    command = [sys.executable, "-m", "experiments.reliability", "--quick", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "reliability.json").read_text())
    assert result["parts"].keys() == {*PARTS}
    assert [failure for part in result["parts"].values() for failure in part["failures"]] == []
    outcomes = {name: part["outcomes"] for name, part in result["parts"].items()}
    assert all(outcomes[name][EXACT] > 0 for name in outcomes)
    assert all(outcomes[name][REFUSED] > 0 for name in ("images", "weights", "configurations"))


class Still(small.Small):
    """The small run that nobody trains: two files of a directory are all there is of it."""

    def __init__(self, root: Path, train: Callable[[Path], Ended]) -> None:
        self.halfway, self.unbroken = root / "halfway", root / "unbroken"
        self.train = lambda workdir, *flags, **options: train(workdir)
        self.halfway.mkdir(parents=True, exist_ok=True)
        (self.halfway / "config.json").write_text('{"seed": 0}')


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Cases of a part and a process of mutants: counted, on a page, kept; a failure is exit code 1,
    and what is settled is not tried again."""
    monkeypatch.setattr(campaign, "QUICK_MUTANTS", {"configurations": 4})
    command = ["--quick", "--only=damage,configurations", f"--out={tmp_path / 'out'}"]
    said = ["error: no\n", "Traceback (most recent call last)\n"]
    asked: list[Path] = []

    def train(workdir: Path) -> Ended:
        asked.append(workdir)
        return Ended(1, "", said[len(asked) > 3])

    monkeypatch.setattr(campaign, "Small", lambda root: Still(tmp_path, train))
    for tried in (5, 0):
        with pytest.raises(SystemExit) as ended:
            campaign.main([*command, "--workers=1"])
        assert ended.value.code == 1
        assert f"5 cases, {5 - tried} of them tried before" in capfd.readouterr().err
    assert len(asked) == 4
    result = json.loads((tmp_path / "out/reliability.json").read_text())
    damage, configurations = (result["parts"][name] for name in ("damage", "configurations"))
    assert damage["outcomes"] == {REFUSED: 3, FAILED: 1} and len(damage["failures"]) == 1
    assert configurations["tried"] == 4 and not configurations["failures"]
    assert configurations["outcomes"].keys() <= {EXACT, REFUSED}
    assert damage["failures"][0] in (tmp_path / "out/reliability.md").read_text()


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
    seen = []

    def look(workdir: Path) -> Ended:
        try:
            seen.append((workdir / "config.json").read_bytes())
        except OSError as error:
            seen.append(type(error).__name__.encode())
        return Ended(1, "", "error: no\n")

    for way in damage.WAYS:
        found = damage.damaged(Still(tmp_path, look), tmp_path / way, "config.json", way)
        assert found.word == REFUSED
    deleted, truncated, altered, unreadable = seen
    assert deleted == b"FileNotFoundError" and unreadable == b"OSError"
    assert b'{"seed": 0}'.startswith(truncated) and 0 < len(truncated) < 11
    assert len(altered) == 11 and altered != b'{"seed": 0}'
