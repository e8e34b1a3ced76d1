"""Runs of several real processes: as one of one process on the same mesh, with one voice, and no
way to leave each other waiting.

A run of two costs twelve seconds of one core, most of it imports; so the dearer ones are slow.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import run_fixtures as fixtures
from run_fixtures import Tiny, quick_to_compile

from experiments.reliability.case import Ended
from experiments.reliability.processes import KEEPING, Processes
from experiments.shared.machine import free_port

SHORT = (  # no shares of the run's length, which changes here
    "--config.optim.drops=()",
    "--config.optim.bias_drops=()",
    "--config.data.lighting_until=1.0",
    "--config.optim.learning_rate=0.001",
)
SECONDS = 200  # that a run may take where all goes well
GONE = r"error: process \d of \d: (process \d|another process) has (gone|ended)"


def start(tiny: Tiny, folder: Path, count: int, *arguments: object, **options: Any) -> Processes:
    """So many processes of `alexnet_jax.main`, with the tiny configuration."""
    compiled = Path(os.environ["ALEXNET_JAX_COMPILED"])
    command = ("alexnet_jax.main", f"--config={tiny.config}", *arguments)
    of_one = options.pop("options", lambda number: {})

    def hurried(number: int) -> dict[str, Any]:
        given = of_one(number)
        return {
            **given,
            "environment": {"XLA_FLAGS": quick_to_compile(), **given.get("environment", {})},
        }

    more = {"compiled": compiled, "options": hurried, **options}
    return Processes(folder / "words", count, *command, **more)


def train(tiny: Tiny, workdir: Path, count: int, epochs: float, *more: object) -> str:
    """Trains or resumes a run in so many processes; what it says, with one voice."""
    flags = (*SHORT, f"--workdir={workdir}", f"--config.epochs={epochs}", *more)
    if count == 1:
        return tiny.train(workdir, *flags)
    ended = start(tiny, workdir.parent, count, *flags).ended(SECONDS)
    assert [one.code for one in ended] == [0] * count, ended
    assert [one.err for one in ended] == [""] * count
    assert [one.out for one in ended[1:]] == [""] * (count - 1)
    return ended[0].out


def refused(run: Processes, seconds: float = 60, code: int = 1) -> str:
    """The one sentence that processes end with, by whichever of them says it; with this code."""
    ended = run.ended(seconds)
    assert [one.code for one in ended] == [code] * len(ended), ended
    assert "".join(one.out for one in ended[1:]) == ""
    lines = "".join(one.err for one in ended).splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture(scope="module")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, 16 steps, of one process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(tiny, workdir, 1, 2)
    return workdir


# --- one run --------------------------------------------------------------------------------------


def test_two_processes_of_a_tower_each_begin_what_one_with_both_ends(
    tiny: Tiny, alone: Path, tmp_path: Path
) -> None:
    """Bit for bit the run of one process: losses, parameters, momentum, position of the input."""
    workdir = tmp_path / "run"
    said = train(tiny, workdir, 2, 1)
    assert "8 steps of 8 on a mesh of 1 x 2 (data x tower) on 2 cpu devices" in said
    assert "2 processes: images/s are of all, the wait for data is of process 0" in said
    assert len(re.findall("step +8/8 ", said)) == 1
    files = {str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()}
    assert {"metrics.jsonl", "config.json", "figures/conv1.png", "figures/curves.png"} <= files
    assert ".hosts" not in files and not any("tmp" in name for name in files)
    assert len([name for name in files if name.startswith("tensorboard/")]) == 1
    said = train(tiny, workdir, 1, 2)
    assert "resuming from the checkpoint of step 8" in said
    tests = [row for row in fixtures.rows(workdir) if row["split"] == "test"]
    assert [row["step"] for row in tests] == [8, 8, 16, 16]
    kept = [row for row in fixtures.rows(workdir) if row not in tests[:2]]
    assert kept == fixtures.rows(alone)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    fixtures.assert_same_end(workdir, alone)


@pytest.mark.slow
def test_four_devices_are_the_same_however_many_processes_have_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Two with both towers, the images shared; four with a tower each; one, which sums in another
    order."""
    for count in (1, 2, 4):
        said = train(tiny, tmp_path / f"{count}", count, 2, "--config.mesh.data=2")
        assert "on a mesh of 2 x 2 (data x tower) on 4 cpu devices" in said
    fixtures.assert_same_end(tmp_path / "2", tmp_path / "4")
    fixtures.assert_same_end(tmp_path / "2", tmp_path / "1", tolerance=1e-5)
    rows = [fixtures.rows(tmp_path / count) for count in ("1", "2")]
    for ours, theirs in zip(*rows, strict=True):
        close = {key: value for key, value in ours.items() if isinstance(value, float)}
        assert close == pytest.approx({key: theirs[key] for key in close}, rel=1e-5)
        assert ours | close == theirs | close


@pytest.mark.slow
def test_a_run_moves_between_numbers_of_processes_and_back(
    tiny: Tiny, alone: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    train(tiny, workdir, 2, 0.5)
    said = train(tiny, workdir, 4, 1, "--config.mesh.data=2")
    assert "resuming from the checkpoint of step 4" in said
    said = train(tiny, workdir, 2, 1.5, "--config.mesh.data=2", "--config.mesh.tower=1")
    assert "resuming from the checkpoint of step 8" in said and "mesh of 2 x 1" in said
    train(tiny, workdir, 1, 1.75, "--config.mesh.tower=1")
    said = train(tiny, workdir, 2, 2, "--config.mesh.data=1", "--config.mesh.tower=2")
    assert "resuming from the checkpoint of step 14" in said and "mesh of 1 x 2" in said
    fixtures.assert_same_end(workdir, alone, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [10, 13, 14])
def test_two_processes_test_every_image_once(
    tiny: Tiny, alone: Path, tmp_path: Path, batch: int
) -> None:
    """The last batch of 24 images: all padding for process 1; 13 is 14; some for one."""
    mesh = ("--config.mesh.data=2", "--config.mesh.tower=1", f"--config.eval_batch_size={batch}")
    run = start(
        tiny,
        tmp_path,
        2,
        f"--workdir={alone}",
        "--mode=evaluate",
        *SHORT,
        "--config.epochs=2",
        *mesh,
    )
    ended = run.ended(SECONDS)
    assert [(one.code, one.err) for one in ended] == [(0, "")] * 2, ended
    assert ended[1].out == "" and "mesh of 2 x 1" in ended[0].out
    tests = [row for row in fixtures.rows(alone) if row["split"] == "test"]
    for line, row, views in zip(
        ended[0].out.splitlines()[-2:], tests, ("one view", "ten views"), strict=True
    ):
        assert line.startswith(f"top-1 error {row['top1_error']:.2%}, top-5 error 0.00%, loss ")
        assert line.endswith(f" in {views} of 24 images")
        loss = float(line.partition("loss ")[2].split()[0])
        assert loss == pytest.approx(row["loss"], abs=1e-4)


@pytest.mark.slow
def test_what_is_done_with_runs_is_done_by_two_as_by_one(
    tiny: Tiny, alone: Path, tmp_path: Path
) -> None:
    """The best checkpoint, a report, an ensemble, and a run that starts from another."""
    other, best = tmp_path / "other", f"--workdir={alone}"
    said = train(tiny, other, 2, 1, f"--config.init_from={alone}")
    assert f"first weights, from step 16 of {alone}:" in said and "conv1: taken" in said
    twin = tmp_path / "twin"
    train(tiny, twin, 1, 1, f"--config.init_from={alone}")
    fixtures.assert_same_end(other, twin)
    for flags in (("--best",), ("--report",), (f"--ensemble={other}",)):
        found, tables = [], []
        for count in (1, 2):
            arguments = (best, "--mode=evaluate", *SHORT, "--config.epochs=2", *flags)
            if count == 1:
                done = tiny.run(f"--config={tiny.config}", *arguments)
                found.append(Ended(done.returncode, done.stdout, done.stderr))
            else:
                ended = start(tiny, tmp_path, count, *arguments).ended(SECONDS)
                assert (ended[1].code, ended[1].out, ended[1].err) == (0, "", "")
                found.append(ended[0])
            tables.append([path.read_text() for path in sorted(alone.glob("report/c*.csv"))])
        assert [(one.code, one.err) for one in found] == [(0, "")] * 2, found
        assert found[0].out == found[1].out
        assert tables[0] == tables[1] and len(tables[0]) == 2 * (flags != ("--best",))
    picture = next((tiny.root / "images" / "test").rglob("*.png"))
    for module, arguments in (
        ("predict", [picture]),
        ("features", [tiny.root / "images" / "test", f"--out={tmp_path / 'features.npy'}"]),
        ("export", ["--format=onnx", f"--out={tmp_path / 'network.onnx'}"]),
    ):
        words = []
        for workdir in (other, twin):
            command = [sys.executable, "-m", f"alexnet_jax.{module}", f"--workdir={workdir}"]
            more = ["--overwrite"] if module != "predict" and workdir == twin else []
            done = subprocess.run(
                [*command, *map(str, arguments), *more], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            words.append(done.stdout.replace(str(workdir), "W"))
        assert words[0] == words[1]


# --- agreement ------------------------------------------------------------------------------------


def planted(folder: Path, module: str, code: str) -> dict[str, Any]:
    """Options of a process in which a module is followed by more code."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"exec(open({str(KEEPING / 'sitecustomize.py')!r}).read())\n"
        f"After({module!r}, lambda module: exec({code!r}, vars(module)))\n"
    )
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"environment": {"PYTHONPATH": path}}


def in_last(options: dict[str, Any]) -> Any:
    """These options for process 1 of two, none for the other."""
    return lambda number: options if number else {}


def test_another_command_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    run = start(
        tiny,
        tmp_path,
        2,
        f"--workdir={tmp_path}/run",
        each=lambda number: (f"--config.seed={number}",),
    )
    assert refused(run, code=1) == (
        "error: process 0 of 2: --config.seed is 0 in process 0 and 1 in process 1: give the same "
        "command to all"
    )
    assert not (tmp_path / "run").exists()


def test_a_process_that_does_not_come(tiny: Tiny, tmp_path: Path) -> None:
    """Is missed after the patience, whichever it is, by each in one sentence."""
    flags = (f"--workdir={tmp_path}/run",)
    runs = [start(tiny, tmp_path / str(who), 2, *flags, only=[who], patience=3) for who in (0, 1)]
    for who, run in enumerate(runs):
        said = refused(run)
        assert said.startswith(f"error: process {who} of 2: not all processes met at 127.0.0.1:")
        assert " within 3 s: " in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("each", "options", "said", "code"),
    [
        (
            lambda n: ("--config.data.source=embedded",) * n,
            {},
            "--config.data.source is ",
            1,
        ),
        (
            lambda n: ("--config.seed=-1",) * n,
            {},
            "error: process 1 of 2: --config.seed=-1",
            2,
        ),
        (
            lambda n: ("--config=missing.py",) * n,
            {},
            "error: process 1 of 2: --config=missing.py",
            2,
        ),
        (lambda n: (), {"versions": "Pillow"}, "the version of Pillow is ", 1),
        (lambda n: (), {"cwd": "other"}, "--workdir=run is not the one that process 0 writes", 1),
        (lambda n: ("--config.mesh.data=3",), {}, "--config.mesh.data=3 with mesh.tower=", 2),
        (
            lambda n: ("--config.mesh.tower=1", "--config.mesh.data=1"),
            {},
            "cannot be shared by 2",
            2,
        ),
    ],
    ids=["data", "bad field", "no file", "versions", "not shared", "three", "one"],
)
def test_what_one_was_told_otherwise_all_refuse(
    tiny: Tiny, tmp_path: Path, each: Any, options: dict[str, str], said: str, code: int
) -> None:
    given = {}
    if "versions" in options:
        change = f"installed()[{options['versions']!r}] = '0.1'"
        given = planted(tmp_path / "site", "alexnet_jax.run.versions", change)
    for folder in ("here", "other"):
        (tmp_path / folder).mkdir()

    def of(number: int) -> dict[str, Any]:
        other = {"cwd": tmp_path / options.get("cwd", "here"), **given}
        return other if number else {"cwd": tmp_path / "here"}

    run = start(tiny, tmp_path, 2, "--workdir=run", each=each, options=of)
    assert said in refused(run, code=code)
    assert not [*(tmp_path / "here/run").glob("*.json*")], "nothing was begun"


@pytest.mark.slow
def test_other_images_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Of machines that have each a copy of their own, which are not the same."""
    prepared = [tmp_path / "0", tmp_path / "1"]
    for number, data in enumerate(prepared):
        images = tmp_path / f"images{number}"
        shutil.copytree(tiny.root / "images", images)
        if number:
            first, *_, last = sorted((images / "train").rglob("*.png"))
            shutil.copy(last, first)
        command = ("--source", f"folder:{images}", "--size=24", f"--out={data}")
        done = subprocess.run(
            [sys.executable, "-m", "alexnet_jax.prepare", *command], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    run = start(
        tiny,
        tmp_path,
        2,
        f"--workdir={tmp_path}/run",
        "--config.data.source=",
        each=lambda number: (f"--config.data.cache={prepared[number]}",),
    )
    assert "the fingerprint of the images is " in refused(run)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["one", "all"])
def test_damage_that_one_sees_is_damage_for_all(
    tiny: Tiny, alone: Path, tmp_path: Path, where: str
) -> None:
    """They go back to the same checkpoint, and end as the unbroken run."""
    workdir = tmp_path / "run"
    shutil.copytree(alone, workdir)
    options: dict[str, Any] = {}
    if where == "all":
        (workdir / "checkpoints/16/model/manifest.ocdbt").write_bytes(b"no manifest")
    else:
        code = (
            "load = Checkpoints._load\n"
            "def damaged(self, step, *given):\n"
            "    if step == 16:\n"
            "        raise Damaged('planted')\n"
            "    return load(self, step, *given)\n"
            "Checkpoints._load = damaged\n"
        )
        options = planted(tmp_path / "site", "alexnet_jax.run.checkpoint", code)
    flags = (*SHORT, f"--workdir={workdir}", "--config.epochs=2")
    ended = start(tiny, tmp_path, 2, *flags, options=in_last(options)).ended(SECONDS)
    assert [(one.code, one.err) for one in ended] == [(0, "")] * 2, ended
    assert f"checkpoint {workdir}/checkpoints/16 is damaged: " in ended[0].out
    assert "falling back to the checkpoint of step 8" in ended[0].out
    assert (workdir / "damaged_checkpoints/16").is_dir()
    assert ended[1].out == ""
    fixtures.assert_same_end(workdir, alone)


@pytest.mark.slow
def test_two_processes_of_one_number(tiny: Tiny, tmp_path: Path) -> None:
    """Nobody waits for the one that is missing longer than the patience."""
    port = free_port()
    flags = (f"--workdir={tmp_path}/run",)
    runs = [
        start(tiny, tmp_path / str(turn), 3, *flags, only=only, patience=5, port=port)
        for turn, only in enumerate(([0, 1], [1]))
    ]
    ended = [one for run in runs for one in run.ended(60)]
    assert all(one.code == 1 for one in ended), ended
    for one in ended:
        assert len(one.err.splitlines()) <= 1, one.err
    assert any("a number of its own" in one.err for one in ended), ended


@pytest.mark.slow
def test_a_port_that_is_taken(tiny: Tiny, tmp_path: Path) -> None:
    """Process 0 says so at once; process 1 after its patience, that it met nobody."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = start(tiny, tmp_path, 2, f"--workdir={tmp_path}/run", port=port, patience=4)
        first, second = run.ended(60)
    assert (first.code, second.code) == (1, 1)
    assert f"port {port} of this machine cannot be used" in first.err
    assert "not all processes met" in second.err and len(second.err.splitlines()) == 1


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_the_others_end(
    tiny: Tiny, alone: Path, tmp_path: Path, victim: int
) -> None:
    """In training; the campaign `experiments.reliability` kills at every moment."""
    workdir = tmp_path / "run"
    flags = (*SHORT, f"--workdir={workdir}", "--config.epochs=2")
    run = start(tiny, tmp_path, 2, *flags, patience=10)
    while fixtures.row_count(workdir) < 2:
        assert run.alive() == [0, 1]
        time.sleep(0.01)
    run.send(signal.SIGKILL, victim)
    killed = time.monotonic()
    ended = run.ended(20)
    assert time.monotonic() - killed < 12
    assert ended[victim].code == -signal.SIGKILL
    left = ended[1 - victim]
    assert left.code == 1 and len(left.err.splitlines()) == 1
    assert re.match(GONE, left.err), left.err
    assert left.err.endswith("; give the same command again to resume\n")
    train(tiny, workdir, 2, 2)
    fixtures.assert_same_end(workdir, alone)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[0], [1], [1, 0]])
def test_some_are_asked_to_stop_and_all_save_the_same_step(
    tiny: Tiny, alone: Path, tmp_path: Path, asked: list[int]
) -> None:
    workdir = tmp_path / "run"
    flags = (*SHORT, f"--workdir={workdir}", "--config.epochs=2")
    run = start(tiny, tmp_path, 2, *flags)
    while fixtures.row_count(workdir) < 1:
        assert run.alive() == [0, 1]
        time.sleep(0.01)
    for number in asked:
        run.send(signal.SIGTERM, number)
        time.sleep(0.03)
    ended = run.ended(30)
    assert [(one.code, one.err) for one in ended] == [(128 + signal.SIGTERM, "")] * 2, ended
    said = ended[0].out.splitlines()[-1]
    step = re.fullmatch(
        r"stopped by SIGTERM: saved at step (\d+); give the same command again to resume", said
    )
    assert step and ended[1].out == ""
    assert fixtures.checkpoint_steps(workdir)[-1] == int(step[1])
    train(tiny, workdir, 1, 2)
    fixtures.assert_same_end(workdir, alone)
