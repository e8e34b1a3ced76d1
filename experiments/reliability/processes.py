"""Several processes of one run, on this machine, and how each of them ended."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.reliability.case import Ended, start
from experiments.shared.machine import free_port

KEEPING = Path(__file__).parent / "keeping"


class Processes:
    """The processes of one command, started together. What each says is in files of its own.

    A context manager; leaving it kills what is still there.
    """

    def __init__(
        self,
        words: Path,
        count: int,
        *arguments: object,
        patience: int = 60,
        each: Callable[[int], Iterable[object]] = lambda number: (),
        options: Callable[[int], dict[str, Any]] = lambda number: {},
        port: int | None = None,
        only: Iterable[int] | None = None,
        compiled: Path | None = None,
    ) -> None:
        """Args:
        words: a folder for what they say; may be there.
        count: how many there are.
        arguments: the module and its arguments, for all of them.
        patience: seconds after which one that is silent has gone.
        each: more arguments of a process; the last one of a flag counts.
        options: of `start`, for a process.
        port: of process 0; one that is free if not given.
        only: the numbers of those that are started; all if not given.
        compiled: a folder of programs that others have compiled.
        """
        words.mkdir(parents=True, exist_ok=True)
        self.words, self.running = words, {}
        port = port or free_port()
        path = os.pathsep.join([str(KEEPING), *filter(None, [os.environ.get("PYTHONPATH")])])
        for number in range(count) if only is None else only:
            given = (f"--processes={count}", f"--process={number}", f"--patience={patience}")
            with self.out(number).open("w") as out, self.err(number).open("w") as err:
                more = {"stdout": out, "stderr": err, **options(number)}
                more["environment"] = {"PYTHONPATH": path, **more.get("environment", {})}
                given = (*given, f"--coordinator=127.0.0.1:{port}", *each(number))
                self.running[number] = start(*arguments, *given, compiled=compiled, **more)

    def out(self, number: int) -> Path:
        """What a process says on stdout."""
        return self.words / f"{number}.out"

    def err(self, number: int) -> Path:
        """What it says on stderr."""
        return self.words / f"{number}.err"

    def send(self, signal_number: int, *numbers: int) -> None:
        """A signal to some of them."""
        for number in numbers:
            self.running[number].send_signal(signal_number)

    def alive(self) -> list[int]:
        """Those that have not ended."""
        return [number for number, process in self.running.items() if process.poll() is None]

    def ended(self, seconds: float) -> list[Ended]:
        """How each ended, in the order of their numbers.

        Raises:
            subprocess.TimeoutExpired: one had not, after these seconds; all are killed.
        """
        limit = time.monotonic() + seconds
        with self:
            for process in self.running.values():
                process.wait(max(0.0, limit - time.monotonic()))
        return [
            Ended(process.returncode, self.out(number).read_text(), self.err(number).read_text())
            for number, process in self.running.items()
        ]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        self.send(signal.SIGKILL, *self.alive())
        for process in self.running.values():
            process.wait()
