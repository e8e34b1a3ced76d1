"""The processes that contenders are timed in: each sleeps while those of the others run.

A framework is a module with three functions: `start` sets its threads and says what it runs on,
`ways` lists what it can do of a task, `make` gets one of these ways ready. `ways_jax` also has
`found`, which names the devices of this machine.
"""

import importlib
import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.timing import Reading
from experiments.step.contender import Contender, Failed, Task, Way
from experiments.step.outcomes import difference


class Opened(NamedTuple):
    """What is known of a contender before it is timed."""

    batch: int
    flops: float
    bytes: float
    compile_seconds: float | None
    difference: float | None  # from the first way that it has to agree with; None for that itself


class Desk:
    """What a process does for its parent."""

    def __init__(self, module: str) -> None:
        self.module = importlib.import_module(module)
        self.contenders: dict[str, Contender] = {}

    def found(self, task: Task) -> Task:
        """The task with the platform and the devices that there are; JAX alone knows."""
        return self.module.found(task)

    def start(self, task: Task) -> str:
        """Sets threads and the like; says what the framework runs on."""
        return self.module.start(task)

    def ways(self, task: Task) -> list[Way]:
        """What the framework can do of a task."""
        return self.module.ways(task)

    def open(self, way: Way, task: Task, folder: str) -> Opened:
        """Gets a contender ready and compares its outcome with that of the first who agrees."""
        contender = self.module.make(way.key, task)
        path, apart = Path(folder) / f"{way.agrees}.npz", None
        if way.agrees:
            first = dict(np.load(path)) if path.exists() else {}
            outcome = contender.outcome(first)
            if first:
                apart = difference(outcome, first)
            else:
                np.savez(path, **outcome)
        self.contenders[way.key] = contender
        return Opened(
            contender.batch,
            contender.flops,
            contender.bytes,
            contender.compile_seconds,
            apart,
        )

    def run(self, key: str, images: int) -> Reading:
        """Times a contender."""
        return self.contenders[key].run(images)

    def memory(self, key: str) -> tuple[int, str] | None:
        """Of a contender."""
        return self.contenders[key].memory()

    def ask(self, key: str, method: str, *arguments: Any) -> Any:
        """What a method of a contender's own answers."""
        return getattr(self.contenders[key], method)(*arguments)

    def close(self) -> None:
        """Lets all contenders go."""
        self.contenders.clear()


class Process:
    """The parent's side of a `Desk` in another process."""

    def __init__(self, module: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, module), daemon=True)
        self.process.start()
        other.close()

    def __call__(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a method of the desk.

        Raises:
            Failed: it raised an error, or the process died.
        """
        try:
            self.connection.send((method.__name__, arguments))
            done, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise Failed("the process died") from error
        if not done:
            raise Failed(answer)
        return answer

    def end(self) -> None:
        """Ends the process."""
        self.connection.close()
        self.process.join(10)
        self.process.kill()


def _serve(connection: Any, module: str) -> None:
    desk: Desk | None = None
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            desk = desk or Desk(module)
            connection.send((True, getattr(desk, name)(*arguments)))
        except ModuleNotFoundError as error:
            connection.send((False, f"{error.name} is not installed"))
        except Failed as error:
            connection.send((False, str(error)))
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0]
            connection.send((False, f"{type(error).__name__}: {first:.200}"))
