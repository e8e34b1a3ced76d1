"""What all experiments share: their command lines, and where their results go."""

import importlib
import json
import os
import pkgutil
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from absl import flags

import experiments
from alexnet_jax.errors import UserError
from experiments.shared import command, machine
from experiments.shared.command import Flags, Results, add_fields, fields, listing, number

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "input": "experiments.input.__main__",
    "step": "experiments.step.__main__",
    "two_machines": "experiments.two_machines.__main__",
    "export": "experiments.export.__main__",
    "seeds": "experiments.seeds",
    "transfer": "experiments.transfer",
    "ensemble": "experiments.ensemble",
    "figure4": "experiments.figure4",
    "why": "experiments.why",
    "claims": "experiments.claims.__main__",
    "fisher": "experiments.fisher",
    "starts": "experiments.starts",
    "faults": "experiments.faults.__main__",
    "step.first_step": "experiments.step.first_step",
}
OPTIONAL = ("torch", "onnx", "onnxruntime")


def import_or_skip(name: str) -> Any:
    """A module of the experiments; skips where a package that it may lack is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")


def test_every_module_can_be_imported_in_one_process() -> None:
    """And none of them defines a flag of absl's."""
    names = [m.name for m in pkgutil.walk_packages(experiments.__path__, "experiments.")]
    assert {*COMMANDS.values(), "experiments.step.ways_torch"} <= set(names)
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            assert error.name in OPTIONAL
    assert not [module for module in flags.FLAGS.flags_by_module_dict() if "experiments" in module]


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The usage and the docstring, on stdout, and exit code 0."""
    module = import_or_skip(COMMANDS[name])
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and err == ""
    assert f"usage: python -m experiments.{name} [-h]" in out
    assert " ".join(module.__doc__.split()) in " ".join(out.split())  # fitted to the terminal
    assert max(map(len, out.splitlines())) <= 100
    assert ("--publish" in out) == (name != "step.first_step")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And exit code 2; nothing is written."""
    monkeypatch.chdir(tmp_path)
    module = import_or_skip(COMMANDS[name])
    with pytest.raises(SystemExit) as ended:
        module.main(["--workdir=W", "--sead=3"] if name == "export" else ["--sead=3"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("error: unknown flag --sead=3") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_as_a_user_asks_for_it() -> None:
    """By the real command."""
    for flag in ("-h", "--help"):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.ensemble", flag],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "usage: python -m experiments.ensemble" in done.stdout


# --- flags ----------------------------------------------------------------------------------------


def some_flags() -> Flags:
    """Flags of every type."""
    found = Flags("some", "What it does.")
    found.add_argument("--rounds", type=number(1, 9), default=5, help="How often.")
    found.add_argument("--seconds", type=number(0.0), default=1.0, help="How long.")
    found.add_argument("--batch", type=listing(int), default="128", help="How many.")
    add_fields(found)
    return found


def test_values_of_flags() -> None:
    """With an equals sign or without, lists with commas, fields with or without `config.`"""
    given = [
        "--rounds=3",
        "--seconds",
        "0.5",
        "--batch=128,1024",
        "--set=a=1",
        "--set=config.b=x=y",
    ]
    found = some_flags().parse(given)
    assert (found.rounds, found.seconds, found.batch) == (3, 0.5, [128, 1024])
    assert fields(found) == ["a=1", "b=x=y"]
    assert some_flags().parse([]).batch == [128]


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--rounds=0", "argument --rounds: 0 is not from 1 to 9"),
        ("--rounds=10", "argument --rounds: 10 is not from 1 to 9"),
        ("--rounds=x", "argument --rounds: invalid int value: 'x'"),
        ("--seconds=-1", "argument --seconds: -1 is not at least 0.0"),
        ("--batch=1,x", "argument --batch: invalid list value: '1,x'"),
        ("--round=3", "unknown flag --round=3, did you mean --rounds"),
        ("word", "unknown flag word"),
    ],
)
def test_wrong_values_of_flags(
    argument: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The flag, its value and what it may be, in one line."""
    with pytest.raises(SystemExit) as ended:
        some_flags().parse([argument])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {said}; see --help\n"


def test_the_command_that_is_recorded() -> None:
    """Can be pasted, and leaves out where its results go."""
    others = ["--rounds=3", "--set=data.source=folder:my pets"]
    found = some_flags().parse(["--out", "a b", others[0], "--publish", others[1], "--out=c"])
    assert shlex.split(found.command) == ["python", "-m", "experiments.some", *others]
    assert found.out == Path("c") and found.publish


# --- results --------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the results, in the place of the repository's, and an empty one to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(command, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(command.machine, "_commit", lambda: "abc1234")
    return tmp_path / "published"


def write_some(*flags_: str) -> tuple[Results, dict[str, Any]]:
    """Results of an experiment that measures nothing."""
    results = Results("some", Flags("some", None).parse(flags_), ["tabulate", "not-a-package"])
    made = results.made_by()
    results.write("some.json", made | {"rows": [1.5]})
    results.write_page("some.md", "# Some\n")
    results.path("picture.png").write_bytes(b"png")
    (results.folder / "W").mkdir()
    results.finish()
    return results, made


def test_results_go_where_one_is(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default, and nothing is published."""
    _, made = write_some()
    assert json.loads(Path("results-some/some.json").read_text()) == {
        **json.loads(json.dumps(made)), "rows": [1.5]
    }  # fmt: skip
    assert made["command"] == "python -m experiments.some"
    assert "tabulate" in made["machine"]["packages"]
    assert "not-a-package" not in made["machine"]["packages"]
    out, err = capsys.readouterr()
    assert out == "# Some\n\n"
    assert "written to results-some: some.json, some.md" in err
    assert not published.exists()


def test_results_are_published_when_asked_for(published: Path) -> None:
    """The files of the results, not what else is in their folder."""
    (published / "some").mkdir(parents=True)
    (published / "some" / "some.md").write_text("older")
    Path("place").mkdir()
    Path("place/other.txt").write_text("not a result")
    write_some("--publish", "--out=place")
    names = sorted(path.name for path in (published / "some").iterdir())
    assert names == ["picture.png", "some.json", "some.md"]
    assert (published / "some" / "some.md").read_text() == "# Some\n"
    assert not Path("results-some").exists()


def test_what_is_published_was_committed(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result names its commit, which has to be the code that made it; said before any work."""
    monkeypatch.setattr(command.machine, "_commit", lambda: "abc1234-dirty")
    with pytest.raises(UserError, match=r"differs from its commit, abc1234-dirty.* commit the"):
        write_some("--publish")
    assert not Path("results-some").exists()
    write_some()
    assert not published.exists()


def test_a_folder_that_cannot_be(published: Path) -> None:
    """A file is in its place."""
    Path("file").touch()
    with pytest.raises(UserError, match="--out=file: File exists"):
        write_some("--out=file")


def test_the_commit_is_that_of_the_code(tmp_path: Path) -> None:
    """Results that were published and not committed yet do not make it another; code does."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def named() -> str:
        code = "from experiments.shared.machine import describe; print(describe()['commit'])"
        place = [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(place, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    copied = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments" / "shared", copied / "shared")
    (copied / "__init__.py").touch()
    (copied / "results").mkdir()
    (copied / "results" / "some.md").write_text("older")
    assert named() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    commit = git("rev-parse", "--short", "HEAD")
    assert named() == commit
    (copied / "results" / "some.md").write_text("newer")
    (tmp_path / "notes.txt").write_text("in no commit")
    assert named() == commit
    (copied / "__init__.py").write_text("# changed\n")
    assert named() == f"{commit}-dirty"


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number_", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_the_run_save(number_: signal.Signals, tmp_path: Path) -> None:
    """The process that was started is asked to stop once, and waited for."""
    program, saved = tmp_path / "program", tmp_path / "saved"
    program.write_text(
        f"#!/bin/sh\ntrap 'sleep 0.2; echo once >> {saved}' TERM INT\necho ready\n"
        f"for i in $(seq 200); do sleep 0.05; [ -e {saved} ] && exit; done\n"
    )
    program.chmod(0o755)
    code = (
        f"import signal, sys; sys.executable = {str(program)!r}\n"
        # A shell's background jobs begin with Ctrl-C ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from experiments.shared import command, runs\n"
        "command.start(lambda: runs.call('main'))"
    )
    start = [sys.executable, "-c", code]
    with subprocess.Popen(
        start, cwd=ROOT, stderr=subprocess.PIPE, text=True, process_group=0
    ) as parent:
        assert parent.stderr is not None
        assert parent.stderr.readline() == "$ python -m alexnet_jax.main\n"
        assert parent.stderr.readline() == "ready\n"
        if number_ == signal.SIGINT:  # Ctrl-C, which all processes of a group get
            os.killpg(parent.pid, number_)
        else:
            parent.send_signal(number_)
        _, err = parent.communicate(timeout=30)
    assert parent.returncode == 128 + number_ and err == ""
    assert saved.read_text() == "once\n"


def test_a_command_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    """What it said is shown, and the experiment ends."""
    from experiments.shared import runs

    with pytest.raises(UserError, match=r"alexnet_jax\.main failed with exit code 2"):
        runs.call("main", "--mode=train")
    assert "--workdir is missing" in capfd.readouterr().err


def test_errors_of_a_user_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code of the error."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(command.streams, "last", lambda: None)

    class Wrong(UserError):
        exit_code = 2

    def fail(error: BaseException) -> Callable[[], None]:
        def main() -> None:
            raise error

        return main

    for error, code, said in (
        (UserError("no such run"), 1, "error: no such run\n"),
        (Wrong("no such field"), 2, "error: no such field\n"),
        (KeyboardInterrupt(), 130, ""),
    ):
        with pytest.raises(SystemExit) as ended:
            command.start(fail(error))
        assert ended.value.code == code and capsys.readouterr().err == said


def test_a_reader_that_has_seen_enough() -> None:
    """As `| head`: no traceback, and the experiment goes on to its end."""
    command = [sys.executable, "-m", "experiments.faults", "alexnet_jax/training", "--list"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_result_names_the_cards_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NVIDIA's command lists them; none where jax has only the CPU, or that command fails."""
    listed = tmp_path / "nvidia-smi"
    listed.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H100\n")
    listed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    found = {"machine": machine.describe(), "load_average": {"before": [0.0]}, "command": "X"}
    assert found["machine"]["cards"] == ["NVIDIA H200", "NVIDIA H100"]
    assert "cores, NVIDIA H200, NVIDIA H100; Python " in machine.made_by(found, ())
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert machine.describe()["cards"] == []
    monkeypatch.delenv("JAX_PLATFORMS")
    listed.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert machine.describe()["cards"] == []
