"""Processes that take the same steps together, each its part."""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.shared.machine import free_port
from experiments.shared.timing import Reading
from experiments.step.contender import Way
from experiments.step.desk import Desk, Opened, Process
from experiments.two_machines.towers import Seat

MODULE = "experiments.two_machines.towers"


class Team:
    """The parent's side of one process or of several."""

    def __init__(self, way: Way, seat: Seat) -> None:
        """Starts them.

        Args:
            way: that they compute.
            seat: of each, but for its number and for where it meets the others.

        Raises:
            Failed: one of them could not start.
        """
        self.way = way
        meeting = f"localhost:{free_port()}"
        self.seats = [
            dataclasses.replace(seat, coordinator=meeting, process=number)
            for number in range(seat.processes)
        ]
        self.processes = [Process(MODULE) for _ in self.seats]
        self._each(Desk.start, [(seat,) for seat in self.seats])

    def _each(self, method: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Calls a method of every desk, all at the same time: they wait for each other."""
        with concurrent.futures.ThreadPoolExecutor(len(self.processes)) as pool:
            calls = [
                pool.submit(process, method, *given)
                for process, given in zip(self.processes, arguments, strict=True)
            ]
            return [call.result() for call in calls]

    def open(self, folder: str) -> list[Opened]:
        """Gets the step ready and compares its outcome with what lies in the folder."""
        return self._each(Desk.open, [(self.way, seat, folder) for seat in self.seats])

    def run(self, images: int) -> Reading:
        """Times steps: by the slowest clock, and by the processor time of all."""
        readings = self._each(Desk.run, [(self.way.key, images)] * len(self.processes))
        _, wall, cpu = zip(*readings, strict=True)
        return Reading(images, max(wall), sum(cpu))

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What a method of `Towers` answers in each process."""
        return self._each(Desk.ask, [(self.way.key, method, *arguments)] * len(self.processes))

    def end(self) -> None:
        """Ends all at once: one that is left would say that the others have gone."""
        for process in self.processes:
            process.process.kill()
        for process in self.processes:
            process.end()
