"""The ways to do one task: got ready in their processes, compared, and timed in turns."""

import contextlib
import dataclasses
import fnmatch
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence

from experiments.shared.command import say
from experiments.shared.timing import Reading, Variant, readings, summary
from experiments.step.contender import Failed, Task, Way
from experiments.step.desk import Desk, Process
from experiments.step.ratios import Row, with_shares

JAX = "experiments.step.ways_jax"
TORCH = "experiments.step.ways_torch"
ONNX = "experiments.step.ways_onnx"
OPERATORS = "experiments.step.operators"
MODULES = {
    "training": (JAX, TORCH),
    "inference": (JAX, TORCH, ONNX),
    "operators": (OPERATORS, TORCH),
}
OURS = (JAX, OPERATORS)  # have to agree
# What outcomes may differ by. Where two responses of the full network are all but equal, the last
# digit decides which of them a pooling layer lets through; the second is for bfloat16 and TF32.
EXACT = {"training": 0.02, "inference": 1e-3, "operators": 1e-3}
ROUGH = 0.25
INFERENCE = (32, 1)  # images
LATE = "out of time, by --minutes"


def parts(task: Task, batches: Iterable[int], *, operators: bool) -> list[Task]:
    """The tasks whose ways are timed in turns, each by itself.

    Args:
        task: what they have in common.
        batches: images in a training step, or of the operators.
        operators: the operators one by one, not training and inference.
    """
    kind = "operators" if operators else "training"
    found = [dataclasses.replace(task, kind=kind, batch=batch) for batch in batches]
    if not operators:
        found += [dataclasses.replace(task, kind="inference", batch=batch) for batch in INFERENCE]
    return found


class Frameworks:
    """The processes: on a CPU one for each framework, on a GPU one for each contender as well,
    because only then is the most memory that a process held that of one contender.

    Attributes:
        about: what each framework says of itself, by its module.
        task: with the platform and the devices that JAX has found.
    """

    def __init__(self, task: Task) -> None:
        self.about: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self.task = task
        self.task = self.of(JAX)(Desk.found, task)

    def of(self, module: str, key: str = "") -> Process:
        """The process of a contender or, without a key, of a framework.

        Raises:
            Failed: the framework is not installed.
        """
        name = f"{module}/{key}" if self.task.platform == "gpu" and key else module
        if name not in self.processes:
            self.processes[name] = Process(module)
            self.about[module] = self.processes[name](Desk.start, self.task)
        return self.processes[name]

    def clear(self) -> None:
        """Lets all contenders go."""
        for name, process in list(self.processes.items()):
            if "/" in name:
                self.processes.pop(name).end()
            else:
                with contextlib.suppress(Failed):
                    process(Desk.close)

    def close(self) -> None:
        """Ends all processes."""
        for process in self.processes.values():
            process.end()


class Session:
    """All ways to do one task.

    Attributes:
        not_run: those that were left out, each with the reason.
    """

    def __init__(self, task: Task, frameworks: Frameworks, only: Sequence[str]) -> None:
        """Args:
        task: what is done.
        frameworks: by whom.
        only: patterns of the keys that are wanted; the limits come with any of them.
        """
        self.task, self.frameworks, self.only = task, frameworks, only
        self.not_run: list[Row] = []
        self._rows: dict[str, Row] = {}
        self._variants: list[Variant] = []
        self._ready: dict[str, tuple[Process, Way]] = {}

    def run(self, rounds: int, seconds: float, limit: float = math.inf) -> list[Row]:
        """Times all ways in turns; a row for each.

        Args:
            rounds: how often.
            seconds: about how long each runs in a round.
            limit: seconds after which no round but the first begins; half of them after which no
                further way is got ready.

        Raises:
            ValueError: this network, its plain version or their operators do not agree.
        """
        began = time.monotonic()
        ways = list(self._ways())
        if all(way.group == "limits" for _, way in ways):
            return []  # they alone are of no use
        if not limit:
            for _, way in ways:
                self._leave_out(way, LATE)
            return []
        with tempfile.TemporaryDirectory() as folder:
            for module, way in ways:
                late = time.monotonic() > began + limit / 2
                if late and self._variants and way.group != "limits":
                    self._leave_out(way, LATE)
                else:
                    self._get_ready(module, way, folder)
        timed = readings(self._variants, rounds, seconds, say, began + limit)
        for key, (process, way) in self._ready.items():
            self._rows[key] |= summary(timed[key])
            self._rows[key]["peak_memory"] = process(Desk.memory, way.key)
        self.frameworks.clear()
        return with_shares(list(self._rows.values()))

    def _ways(self) -> Iterator[tuple[str, Way]]:
        """The ways of all frameworks that are there, each with its module; lists the others, and
        those that are not wanted, in `not_run`."""
        task = self.task
        for module in MODULES[task.kind]:
            try:
                ways = self.frameworks.of(module)(Desk.ways, task)
            except Failed as error:
                name = module.rpartition(".")[2].removeprefix("ways_")
                self._leave_out(Way(name, f"{task.kind}, batch {task.batch}", name), str(error))
                continue
            for way in ways:
                if way.group != "limits" and not self._wanted(way):
                    self._leave_out(way, "left out by --only")
                else:
                    yield module, way

    def _get_ready(self, module: str, way: Way, folder: str) -> None:
        """Opens a way in its process, and takes it in if it agrees.

        Args:
            module: of the framework.
            way: one of its ways.
            folder: for the outcomes that others are compared with.
        """
        key = self._key(way)
        say(f"getting ready  {key}")
        try:
            process = self.frameworks.of(module, key)
            opened = process(Desk.open, way, self.task, folder)
        except Failed as error:
            return self._leave_out(way, str(error))
        if opened.difference is not None and not opened.difference < allowed(self.task):
            reason = f"its outcome differs by {opened.difference:.2g} from the first"
            if module in OURS:
                raise ValueError(f"{key}: {reason}")
            return self._leave_out(way, reason)

        def run(images: int) -> Reading:
            return process(Desk.run, way.key, images)

        self._ready[key] = process, way
        self._rows[key] = self._row(way) | opened._asdict()
        self._variants.append(Variant(key, way.group, way.name, run, opened.batch))
        return None

    def _wanted(self, way: Way) -> bool:
        return any(fnmatch.fnmatch(self._key(way), pattern) for pattern in self.only)

    def _key(self, way: Way) -> str:
        return f"{self.task.kind}_{self.task.batch}/{way.key}"

    def _row(self, way: Way) -> Row:
        return {"key": self._key(way), "group": way.group, "name": way.name}

    def _leave_out(self, way: Way, reason: str) -> None:
        self.not_run.append(self._row(way) | {"reason": reason})


def allowed(task: Task) -> float:
    """What an outcome may differ by."""
    return EXACT[task.kind] if task.dtype == "float32" and task.platform == "cpu" else ROUGH
