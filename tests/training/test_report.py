"""What a run tells: lines, the bar, `metrics.jsonl` and the events for TensorBoard."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TextIO

import pytest
import run_fixtures as fixtures
from tensorboardX.proto.event_pb2 import Event

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.scores import Score, score_row
from alexnet_jax.training.events import _import_tensorboardx
from alexnet_jax.training.report import Report, Silence, conclude, read_test_scores

ROW = {
    "step": 40, "epoch": 2.5, "split": "train", "loss": 1.25, "top1_error": 0.5,
    "top5_error": 0.125, "views": 1, "examples": 320, "learning_rate": 0.01,
    "images_per_second": 1234.4, "data_wait_fraction": 0.031, "seconds_left": 3725.0,
}  # fmt: skip
SCORES = [Score(1, 1000, 0.5, 0.25, 0.0625), Score(10, 1000, 0.375, 0.125, 0.03125)]


def events(workdir: Path) -> dict[tuple[str, int], float]:
    """The scalars of the event files, by name and step."""
    found = {}
    for file in workdir.glob("tensorboard/*"):
        data = file.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_a_line_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Report(tmp_path, start=32, steps=640) as report:
        report.training(ROW)
        report.training(ROW | {"step": 48, "seconds_left": 59.6})
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "step     40/640  epoch   2.50  loss 1.2500  top-1 error  50.0%  1,234 images/s  "
        "waiting for data 3.1%  left 62m05s"
    )
    assert second.endswith("left 1m00s")


def test_a_bar_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts where the run resumes, and rows are written beside it, not printed."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Report(tmp_path, start=32, steps=64) as report:
        report.advance()
        report.training(ROW)
        report.say("step 40  validation")
    out, err = capsys.readouterr()
    assert out == "step 40  validation\n"
    shown = err.split("\r")
    assert any("32/64" in text for text in shown)
    assert any(
        "33/64" in text and "loss 1.250, error 50.0%, 1,234 images/s, data wait 3.1%" in text
        for text in shown
    ), shown
    assert "step/s" in err
    assert [row["step"] for row in fixtures.rows(tmp_path)] == [40]


def test_rows_are_in_the_file_at_once_and_as_they_are(tmp_path: Path) -> None:
    with Report(tmp_path, start=0, steps=64) as report:
        report.rows(ROW)
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == ROW
    with Report(tmp_path, start=40, steps=64):
        pass
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == ROW


def test_a_full_disk_names_the_file_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Report(tmp_path, start=0, steps=64) as report:
        report.rows(ROW)
        before = (tmp_path / "metrics.jsonl").read_bytes()

        def full(path: Path, *mode: str) -> TextIO:
            return open("/dev/full", "a")

        monkeypatch.setattr(type(tmp_path), "open", full)
        message = r"could not write to .*metrics\.jsonl: No space left on device\. Free some space"
        with pytest.raises(UserError, match=message):
            report.rows(ROW)
        monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_tensorboard_has_every_number_once(tmp_path: Path) -> None:
    with Report(tmp_path, start=0, steps=64) as report:
        report.training(ROW)
        report.rows(*(score_row(score, 64, 4.0, "test") for score in SCORES))
    expected = {
        (f"train/{name}", 40): value
        for name, value in ROW.items()
        if isinstance(value, float) and name != "epoch"
    }
    for split, score in zip(("test", "test_10_views"), SCORES, strict=True):
        for name in ("loss", "top1_error", "top5_error"):
            expected[f"{split}/{name}", 64] = getattr(score, name)
    found = events(tmp_path)
    assert found.keys() == expected.keys()
    assert [found[name] for name in expected] == pytest.approx(list(expected.values()))


def test_a_full_disk_for_a_moment_costs_no_more_than_tensorboard(tmp_path: Path) -> None:
    """With no file over 4 kB for as long as 200 rows are told: the run goes on, says so once, and
    has every row in its metrics. In a second process, for the limit is the process's."""
    program = f"""
import resource, signal
from pathlib import Path
from alexnet_jax.training import report as module
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
row = {ROW!r}
add_rows = module.add_rows
def unlimited(path, *rows):
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    add_rows(path, *rows)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
module.add_rows = unlimited
with module.Report(Path({str(tmp_path)!r}), start=0, steps=640) as report:
    for step in range(200):
        report.training(row | {{"step": step}})
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stdout.splitlines() if line.startswith("note:")]
    assert notes == [
        "note: no more is written for TensorBoard (File too large); metrics.jsonl goes on"
    ]
    assert done.stdout.endswith("ended\n")
    assert len(fixtures.rows(tmp_path)) == 200


def test_a_resumed_run_takes_back_the_events_after_its_checkpoint(tmp_path: Path) -> None:
    """A mark with the step from which on TensorBoard forgets what older files say."""
    with Report(tmp_path, start=12, steps=64):
        pass
    data = b"".join(file.read_bytes() for file in tmp_path.glob("tensorboard/*"))
    starts = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        starts += [event.step] if event.session_log.status else []
        data = data[12 + length + 4 :]
    assert starts == [13]


def test_rows_after_the_restored_step_and_a_half_written_one_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "train", "views": 1}) for step in (4, 8, 12, 16)]
    path.write_text("\n".join(lines) + '\n{"step": 17, "spl')
    with Report(tmp_path, start=12, steps=20) as report:
        report.rows({"step": 14, "split": "validation", "views": 1})
    assert [row["step"] for row in fixtures.rows(tmp_path)] == [4, 8, 12, 14]
    assert not list(tmp_path.glob("*.tmp"))


def test_no_row_is_lost(tmp_path: Path) -> None:
    """What is dropped is kept beside, as it was; so is a line that has been altered."""
    path, dropped = tmp_path / "metrics.jsonl", tmp_path / "metrics.dropped.jsonl"
    lines = [json.dumps({"step": step, "split": "train", "views": 1}) for step in (4, 8, 12, 16)]
    altered = b'{"step": 6, "spl\xff\x0bt": 1}'
    lines.insert(1, "{}")
    lines[1:1] = [altered.decode(errors="surrogateescape")]
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    with Report(tmp_path, start=12, steps=20):
        pass
    assert [row["step"] for row in fixtures.rows(tmp_path)] == [4, 8, 12]
    kept = [altered, b"{}", lines[-1].encode()]
    assert dropped.read_bytes().split(b"\n") == [*kept, b""]
    with Report(tmp_path, start=8, steps=20):
        pass
    assert dropped.read_bytes().split(b"\n") == [*kept, lines[-2].encode(), b""]
    assert [row["step"] for row in fixtures.rows(tmp_path)] == [4, 8]


def test_a_last_row_without_its_end_of_line_is_a_row(tmp_path: Path) -> None:
    """And the next one does not stick to it."""
    row = {"step": 4, "split": "train", "views": 1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    with Report(tmp_path, start=4, steps=20) as report:
        report.rows(row | {"step": 8})
    assert [row["step"] for row in fixtures.rows(tmp_path)] == [4, 8]
    assert not (tmp_path / "metrics.dropped.jsonl").exists()


def test_a_finished_run_leaves_tensorboard_and_its_rows_alone(tmp_path: Path) -> None:
    row = {"step": 20, "split": "train", "views": 1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    before = (tmp_path / "metrics.jsonl").stat()
    with Report(tmp_path, start=20, steps=20):
        pass
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (tmp_path / "tensorboard").exists()
    with Report(tmp_path, start=20, steps=20) as report:  # but for a test that was missing
        report.rows(score_row(SCORES[0], 20, 5.0, "test"))
    assert len(list(tmp_path.glob("tensorboard/*"))) == 1


def test_scores_of_a_test_are_found_again(tmp_path: Path) -> None:
    """Those of this step and of the test split alone, if none is missing."""
    with Report(tmp_path, start=0, steps=64) as report:
        report.rows(score_row(SCORES[1], 48, 3.0, "test"))
        report.rows(*(score_row(score, 64, 4.0, "test") for score in SCORES))
        report.rows(*(score_row(score, 80, 5.0, "validation") for score in SCORES))
        report.rows(score_row(SCORES[0], 96, 6.0, "test"))
    assert read_test_scores(tmp_path, 48) == []
    assert read_test_scores(tmp_path, 64) == SCORES
    assert read_test_scores(tmp_path, 80) == []
    assert read_test_scores(tmp_path, 96) == []


def test_the_conclusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude(tmp_path, SCORES, 64)
    out = capsys.readouterr().out
    assert out.startswith("\ntest, last step: top-1 error 25.00%, top-5 error 6.25%, loss 0.5000 ")
    assert "test, last step: top-1 error 12.50%, top-5 error 3.12%, loss 0.3750 in ten views" in out
    assert "best checkpoint by validation error: step 64\n" in out
    assert f"python -m alexnet_jax.main --workdir={tmp_path} --mode=evaluate" in out
    conclude(tmp_path / "two words", SCORES, None)
    assert f"--workdir='{tmp_path}/two words' --mode" in capsys.readouterr().out
    conclude(tmp_path, SCORES, None)
    assert "best checkpoint" not in capsys.readouterr().out


def test_training_does_not_load_torch(tmp_path: Path) -> None:
    """TensorboardX would, in two seconds; and who imports torch afterwards gets the true one."""
    (tmp_path / "torch.py").write_text("print('loaded')\n__version__ = '2'\n")
    program = "import alexnet_jax.training.session; print('training'); import torch"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["training", "loaded"], done.stderr


def test_torch_that_is_in_memory_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = ModuleType("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    _import_tensorboardx()
    assert sys.modules["torch"] is torch


def test_silence_is_a_report_that_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever can be told to a report, a process that is not the first may be told."""
    assert {name for name in vars(Report) if name[0] != "_"} <= vars(Silence).keys()
    with Silence() as silence:
        silence.advance()
        silence.say("a line")
        silence.rows(ROW, ROW)
        silence.training(ROW)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ZeroDivisionError), Silence():
        raise ZeroDivisionError
