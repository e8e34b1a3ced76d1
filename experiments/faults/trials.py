"""Runs tests in private copies of the tree, several at a time, each with a fault or with none."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.faults.planting import Fault
from experiments.shared.journal import tracked_files

KILLED, TIMED_OUT, SURVIVED, NOT_EXECUTED = "killed", "timed out", "survived", "not executed"
TOOL = Path(__file__).parents[2]


class Trial(NamedTuple):
    """Tests to run, and the fault that is planted before."""

    files: list[str]
    tests: list[str] | None = None  # of the files, in this order; None: all
    limit: float = float("inf")  # seconds
    fault: Fault | None = None
    coverage: Path | None = None  # its configuration


class Outcome(NamedTuple):
    """How a trial went."""

    word: str  # killed, timed out, survived or not executed
    total: float  # seconds
    seconds: dict[str, float]  # of the tests that ran
    failed: list[str]  # tests, and files that could not be imported


class Copy:
    """A private copy of the tree and of the compiled programs, for one trial at a time."""

    def __init__(self, root: Path, home: Path, compiled: Path) -> None:
        """Copies all files that git does not ignore.

        Args:
            root: of the checkout.
            home: where the copy goes; not there yet.
            compiled: programs that are there for every trial. A trial works on a copy of them, so
                that one that is killed while it writes leaves no half a program to the others.
        """
        self.home, self.tree, self.compiled = home, home / "tree", compiled
        for file in tracked_files(root):
            (self.tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, self.tree / file)
        self.stamp = 1_000_000_000
        self.sound: tuple[str, bytes] | None = None  # the module with a fault, without it

    def start(self, trial: Trial) -> None:
        """Plants the fault and starts the tests."""
        self.trial, self.seconds, self.seen = trial, 0.0, time.monotonic()
        for folder in ("tmp", "compiled"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        (self.home / "tmp").mkdir()
        shutil.copytree(self.compiled, self.home / "compiled")
        if self.sound:
            self._write(*self.sound)
            self.sound = None
        if fault := trial.fault:
            self.sound = fault.file, (self.tree / fault.file).read_bytes()
            self._write(fault.file, fault.planted(self.sound[1]))
        (self.home / "plan").write_text(json.dumps(trial.tests))
        (self.home / "record").unlink(missing_ok=True)
        options = ["-q", "-p", "no:cacheprovider", "-p", "experiments.faults.plugin", "--rootdir=."]
        stop = ["-x"] if trial.fault else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *stop, *trial.files],
            cwd=self.tree,
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _write(self, file: str, source: bytes) -> None:
        """Writes a module at a second of its own: Python takes what it compiled of another module
        of the same size and second for this one's."""
        (self.tree / file).write_bytes(source)
        self.stamp += 1
        os.utime(self.tree / file, (self.stamp, self.stamp))

    def _environment(self) -> dict[str, str]:
        outer = ("PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS", "COVERAGE_PROCESS_START")
        paths = [str(self.tree), os.environ.get("PYTHONPATH", ""), str(TOOL)]
        return {
            **{name: value for name, value in os.environ.items() if name not in outer},
            **({"COVERAGE_PROCESS_START": str(self.trial.coverage)} if self.trial.coverage else {}),
            "FAULTS_PLAN": str(self.home / "plan"),
            "FAULTS_RECORD": str(self.home / "record"),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # importing them takes a second
            "TMPDIR": str(self.home / "tmp"),
            "JAX_COMPILATION_CACHE_DIR": str(self.home / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def outcome(self) -> Outcome | None:
        """How the trial went; None while it goes on. Has to be asked several times a second."""
        now = time.monotonic()
        self.seconds += min(now - self.seen, 1.0)  # more: this machine or process was asleep
        self.seen = now
        in_time = self.seconds < self.trial.limit
        if in_time and self.process.poll() is None:
            return None
        self.stop()
        passed = self.process.returncode in (0, 5)  # 5: there is no test
        word = TIMED_OUT if not in_time else SURVIVED if passed else KILLED
        if not self.trial.fault:
            self._keep_compiled()
        seconds, failed = {}, []
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            seconds, failed = json.loads((self.home / "record").read_text()).values()
        return Outcome(word, round(self.seconds, 1), seconds, failed)

    def _keep_compiled(self) -> None:
        for program in (self.home / "compiled").iterdir():
            if not (self.compiled / program.name).exists():
                whole = shutil.copy(program, self.compiled.with_name("new_program"))
                os.replace(whole, self.compiled / program.name)

    def stop(self) -> None:
        """Kills what is left of the trial's processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(copies: list[Copy], trials: Iterable[Trial]) -> Iterator[tuple[Trial, Outcome]]:
    """Runs the trials, one in every copy at a time; each is yielded when it ends."""
    waiting, free = deque(trials), list(copies)
    busy: list[Copy] = []
    try:
        while waiting or busy:
            while waiting and free:
                busy.append(free.pop())
                busy[-1].start(waiting.popleft())
            time.sleep(0.02)
            for copy in list(busy):
                if outcome := copy.outcome():
                    busy.remove(copy)
                    free.append(copy)
                    yield copy.trial, outcome
    finally:
        for copy in busy:
            copy.stop()
