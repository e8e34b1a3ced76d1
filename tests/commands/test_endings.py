"""How commands end: by a signal at any moment, with a stdout that nobody reads, by an error.

Small programs stand in for commands where only the end matters; real ones are at the end.
"""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from asked_fixtures import SIZE, write_run
from run_fixtures import Tiny, checkpoint_steps, rows

from alexnet_jax import cli
from alexnet_jax.data.cache.store import open_cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import ConfigError, UserError

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def start(program: str, **options: Any) -> subprocess.Popen[str]:
    """A process that is a command, of which `main` is given."""
    text = f"import sys, time\nfrom alexnet_jax import cli\n{program}\ncli.run(main)\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", text], text=True, **(pipes | options))


def until_ready(process: subprocess.Popen[str]) -> None:
    """Waits for the first line, and until it was written."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, str, str]:
    """Sends a signal: how long the process lived on, and what it said then."""
    before = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, (process.returncode, out, err)
    return time.monotonic() - before, out, err


# --- signals --------------------------------------------------------------------------------------

SWALLOWED = """
class Deaf:
    def __del__(self):  # whose exceptions Python ignores
        print("ready", flush=True)
        time.sleep(0.7)
def main():
    with cli.errors_in_one_line("all is kept", again="; go on"):
        try:
            Deaf()
            try:
                time.sleep(0.5)
            except BaseException:  # a library's
                pass
            time.sleep(60)
        finally:
            print("cleaned up")
"""
LIBRARY = """
library = {"__name__": "library", "time": time}
exec('''
def compare():  # called from C++, which an exception would end
    try:
        print("ready", flush=True)
        for _ in range(7):
            time.sleep(0.1)
        print("compared")
    except BaseException as error:
        print("broken by", error)
''', library)
def main():
    with cli.errors_in_one_line("all is kept", again="; go on"):
        try:
            library["compare"]()
            try:
                time.sleep(60)
            finally:
                print("left")
        finally:
            print("cleaned up")
"""
BUSY = """
import hashlib
def main():
    with cli.errors_in_one_line("all is kept", answers=True):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # C code, for minutes
"""
PATIENT = """
from alexnet_jax.signals import stop_signals, Stopped
def main():
    with cli.errors_in_one_line("what was saved is kept", again="; go on"):
        with stop_signals() as caught:
            print("ready", flush=True)
            while not caught:
                time.sleep(0.01)
            print("saving", flush=True)
            time.sleep(float(sys.argv[1]) if sys.argv[1:] else 3)
            raise Stopped(caught[0], "saved")
"""


CLOSING = """
from alexnet_jax.signals import COMMAND
def main():
    with cli.errors_in_one_line("what was saved is kept"):
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            with COMMAND.patient():
                time.sleep(2.5)
            print("saved")
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stop_that_is_swallowed_comes_again(number: signal.Signals) -> None:
    """By an exception that Python ignores, and by one that a library passes over: in the end the
    process unwinds as if nothing had been."""
    process = start(SWALLOWED)
    until_ready(process)
    took, out, err = ended(process, number)
    assert took < 2 and err == ""
    assert out == f"cleaned up\nstopped by {number.name}: all is kept; go on\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_library_is_left_first(number: signal.Signals) -> None:
    """Where it calls Python an exception may be the end of the process; after it there is none."""
    process = start(LIBRARY)
    until_ready(process)
    took, out, err = ended(process, number)
    assert took < 2 and err == ""
    assert out == f"compared\nleft\ncleaned up\nstopped by {number.name}: all is kept; go on\n"


def test_c_code_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends although no handler can run; what is an answer is not mixed with it."""
    process = start(BUSY)
    until_ready(process)
    took, out, err = ended(process, signal.SIGTERM)
    assert took < 2 and (out, err) == ("", "stopped by SIGTERM at once: all is kept\n")


def test_the_second_signal_ends_at_once_what_the_first_may_not() -> None:
    """Training's save takes longer than a stop may elsewhere."""
    process = start(PATIENT)
    until_ready(process)
    took, out, err = ended(process, signal.SIGINT)
    assert took > 2 and (out, err) == ("saving\nstopped by SIGINT: saved; go on\n", "")
    process = start(PATIENT)
    until_ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None and process.stdout.readline() == "saving\n"
    took, out, err = ended(process, signal.SIGINT)
    assert took < 1 and err == ""
    assert out == "stopped by SIGINT at once: not saved since the last checkpoint; go on\n"


def test_a_save_under_way_is_waited_for() -> None:
    """Also one that only begins to be waited for when the stop has come."""
    process = start(CLOSING)
    until_ready(process)
    took, out, err = ended(process, signal.SIGTERM)
    assert took > 2.4 and err == ""
    assert out == "saved\nstopped by SIGTERM: what was saved is kept\n"


def test_a_signal_at_the_very_end_changes_nothing() -> None:
    process = start(
        "def main():\n    import atexit\n    atexit.register(wait)\n    return 3\n"
        "def wait():\n    print('ready', flush=True)\n    time.sleep(0.5)\n    print('waited')"
    )
    until_ready(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (3, "waited\n", "")


# --- stdout and stderr ----------------------------------------------------------------------------

WORK = """
def main():
    with cli.errors_in_one_line(answers=ANSWERS):
        for number in range(9):
            print("x" * 9999)
            print("y" * 9999, file=sys.stderr)
    open(sys.argv[1], "x").write("done") if sys.argv[1:] else None
    return 0
"""


def shell(command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A line of bash."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    ("redirected", "if_answers"),
    [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("2>&- | head -c1", 141), (">/dev/full 2>&-", 1)],
)
def test_what_is_printed_may_not_be_read(tmp_path: Path, redirected: str, if_answers: int) -> None:
    """It goes on to its end and says nothing; where what it prints is all, the exit code tells."""
    for answers, code in ((False, 0), (True, if_answers)):
        program = WORK.replace("ANSWERS", str(answers))
        text = f"import sys\nfrom alexnet_jax import cli\n{program}\ncli.run(main)\n"
        (tmp_path / "program.py").write_text(text)
        done = shell(f"{sys.executable} program.py {answers} {redirected}", cwd=tmp_path)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr and "Broken" not in done.stderr
        if code == 0:
            assert (tmp_path / str(answers)).read_text() == "done"


def test_a_full_disk_behind_stdout_is_said(tmp_path: Path) -> None:
    """Of what was asked for it is an error, of what is only told on the way a note."""
    for answers, word in ((False, "note"), (True, "error")):
        with open("/dev/full", "w") as full:
            process = start(WORK.replace("ANSWERS", str(answers)), stdout=full)
        _, err = process.communicate(timeout=30)
        assert process.returncode == int(answers)
        *_, line = err.splitlines()
        assert line == (
            f"{word}: what was printed is not complete (stdout: No space left on device)"
        )


def test_no_file_takes_the_place_of_a_closed_stderr(tmp_path: Path) -> None:
    """What C code says there would be written into it."""
    program = (
        "import os\nfrom alexnet_jax import cli\ndef main():\n    file = open('kept', 'w')\n"
        "    os.write(2, b'noise')\n    file.write('mine')\n    return 0\ncli.run(main)"
    )
    (tmp_path / "program.py").write_text(program)
    assert shell(f"{sys.executable} program.py 2>&-", cwd=tmp_path).returncode == 0
    assert (tmp_path / "kept").read_text() == "mine"


def test_help_into_a_pipe_that_closes() -> None:
    for module in ("alexnet_jax", "alexnet_jax.main", "alexnet_jax.predict"):
        done = shell(f"{sys.executable} -m {module} --help | head -c1")
        assert (done.stdout, done.stderr) == ("u", "")


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("fix it"), "fix it"),
        (ConfigError("two\nlines"), "two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device; the system does not say where, --debug does",
        ),
        (
            ModuleNotFoundError("No module named 'cv2.x'", name="cv2.x"),
            "the package cv2 is missing: pip install opencv-python-headless",
        ),
        (
            ImportError("libGL.so.1: cannot open", name="onnx"),
            "the package onnx is broken (libGL.so.1: cannot open): pip install --force-reinstall "
            "onnx",
        ),
        (MemoryError(), "there is not enough memory for this: none is left"),
        (
            ValueError("not\nforeseen"),
            "unexpected ValueError: not foreseen; run again with --debug for the traceback",
        ),
    ],
)
def test_an_error_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """And a traceback before it with --debug."""
    for debug in (False, True):
        monkeypatch.setattr(cli.shown, "debug", debug)
        with pytest.raises(SystemExit) as info, cli.errors_in_one_line():
            raise error
        assert info.value.code == (2 if isinstance(error, ConfigError) else 1)
        *before, last = capsys.readouterr().err.splitlines()
        assert last == f"error: {line}"
        assert bool(before) == debug and ("Traceback" in "".join(before)) == debug


def test_every_command_has_debug() -> None:
    """The traceback of an error that any command can have."""
    for name in ("predict", "features", "linear", "figures", "convert", "export"):
        parser = cli.Parser(name, None)
        assert parser.parse(["--debug"]).debug and cli.shown.debug
        assert not parser.parse([]).debug and not cli.shown.debug
    command = [sys.executable, "-m", "alexnet_jax", "config", "--config=/no/where.py", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_thread_that_fails_says_so_in_a_line() -> None:
    program = (
        "import threading, warnings\ndef main():\n    warnings.warn('of a library')\n"
        "    thread = threading.Thread(target=lambda: 1 / 0)\n    thread.start()\n"
        "    thread.join()\n    return 0"
    )
    process = start(program)
    _, err = process.communicate(timeout=30)
    (line,) = err.splitlines()
    assert line.startswith("in a thread: unexpected ZeroDivisionError: division by zero")


# --- real commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Each command as a user types it; OUT is a folder of its own for each time."""
    root = tmp_path_factory.mktemp("endings")
    run, trained = write_run(root / "run"), root / "trained"
    tiny.train(trained, "--config.epochs=1")
    images = f"{tiny.root}/images"
    dataset = [f"--config.data.source=folder:{images}", "--config.data.dir=OUT"]
    of_run = [f"--workdir={run}", images]
    cache = ensure_cache(f"folder:{images}", SIZE, str(root)).path
    return {
        "train": ["main", "--workdir=OUT/w", f"--config={tiny.config}", "--config.epochs=20"],
        "evaluate": ["main", f"--workdir={trained}", "--mode=evaluate", *dataset],
        "report": ["main", f"--workdir={trained}", "--mode=evaluate", "--report", *dataset],
        "describe": ["main", "--mode=describe"],
        "prepare": ["prepare", f"--source=folder:{images}", "--out=OUT/c", "--size=64"],
        "predict": ["predict", *of_run, "--figure=OUT/p.png"],
        "features": ["features", *of_run, "--out=OUT/f.npy", "--neighbours=OUT/n.png"],
        "linear": ["linear", f"--workdir={run}", f"--cache={cache}", "--out=OUT/linear"],
        "figures": ["figures", f"--workdir={run}", "--out=OUT/figures"],
        "explore": ["explore", f"--workdir={run}", "--port=0"],
        "onnx": ["export", f"--workdir={run}", "--format=onnx", "--out=OUT/x.onnx"],
    }


def stop_at(command: list[str], out: Path, number: signal.Signals, seconds: float) -> None:
    """Starts a command and stops it some time after its first moment: it ends in time, by one
    sentence or as if nothing had come, and nothing is half written."""
    out.mkdir(parents=True)
    module, *flags = (argument.replace("OUT", str(out)) for argument in command)
    # By one name, or by its own.
    line = ["alexnet_jax", module] if number == signal.SIGINT else [f"alexnet_jax.{module}"]
    process = subprocess.Popen(
        [sys.executable, "-m", *line, *flags],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": os.environ["ALEXNET_JAX_COMPILED"]},
    )
    while not takes_signals(process.pid) and process.poll() is None:
        time.sleep(0.001)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    before = time.monotonic()
    process.send_signal(number)
    said, err = process.communicate(timeout=120)
    took = time.monotonic() - before
    assert process.returncode in (0, 128 + number), (process.returncode, said, err)
    assert "Traceback" not in said + err and "Exception" not in said + err, (said, err)
    sentences = [text for text in (said + err).splitlines() if "stopped by" in text]
    assert len(sentences) == (process.returncode != 0), (said, err)
    if "--workdir=OUT/w" not in command:  # which saves first
        assert took < 3, took  # two, and what a machine with other work adds
    assert [path for path in out.rglob("*.partial") if path.is_file()] == []
    assert [*out.rglob(".partial-*")] == []


def takes_signals(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM: not in Python's own first moments."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # no Linux
        time.sleep(0.5)
        return True
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("name", ["predict", "prepare", "describe"])
def test_stopped_at_some_moments(commands: dict[str, list[str]], tmp_path: Path, name: str) -> None:
    """A few of those below."""
    moments = random.Random(name)
    for number in NUMBERS:
        stop_at(commands[name], tmp_path / number.name, number, moments.uniform(0, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "train",
        "evaluate",
        "report",
        "describe",
        "prepare",
        "predict",
        "features",
        "linear",
        "figures",
        "explore",
        "onnx",
    ],
)
def test_stopped_at_forty_moments(
    commands: dict[str, list[str]], tmp_path: Path, name: str
) -> None:
    if name == "explore":
        pytest.importorskip("gradio")
    moments = random.Random(name)
    for turn in range(40):
        number = NUMBERS[turn % 2]
        stop_at(commands[name], tmp_path / str(turn), number, moments.uniform(0, 6))


@pytest.mark.parametrize("redirected", ["| head -n1", ">&- 2>&-", ">/dev/full"])
def test_preparing_goes_on_without_a_reader(tiny: Tiny, tmp_path: Path, redirected: str) -> None:
    line = f"{sys.executable} -m alexnet_jax prepare --source=folder:{tiny.root}/images --size=24"
    done = shell(f"{line} --out={tmp_path}/c {redirected}")
    assert done.returncode == 0, done
    assert done.stderr == "" or done.stderr.startswith("note: what was printed is not complete")
    assert len(open_cache(f"{tmp_path}/c").images["train"]) == 64


def test_training_goes_on_without_a_reader(tiny: Tiny, tmp_path: Path) -> None:
    """As behind `| tee log` whose terminal is gone, and with a stderr that is closed."""
    flags = (f"--workdir={tmp_path}", f"--config={tiny.config}", "--config.epochs=1")
    process = tiny.start(*flags, prefix=("bash", "-c", 'exec "$@" 2>&-', "bash"), stderr=None)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert checkpoint_steps(tmp_path) == [8]
    assert [row["split"] for row in rows(tmp_path)][-2:] == ["test", "test"]
