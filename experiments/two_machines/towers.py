"""A process's part of the training step: one tower, or both, on the CPU.

A framework as `experiments.step.desk` wants one. The step is the program's own, on images that are
already where they are needed.
"""

import dataclasses
import glob
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping

import jax
import numpy as np

from alexnet_jax.model import make_mesh
from alexnet_jax.run import hosts, joining
from experiments.step.contender import Arrays, Task
from experiments.step.outcomes import CHECKED_STEPS, changes
from experiments.step.ways_jax import Training
from experiments.two_machines.exchanges import Exchange, exchanges

PATIENCE = 600  # seconds: on a busy machine one may start and compile much later than the other


@dataclasses.dataclass(frozen=True)
class Seat(Task):
    """What is to be computed, and which part of it by this process.

    Attributes:
        coordinator: HOST:PORT of process 0; '' if there is one process alone.
        processes: how many share the mesh.
        process: which of them this is, from 0.
    """

    coordinator: str = ""
    processes: int = 1
    process: int = 0


def start(seat: Seat) -> str:
    """Makes the devices, as many as are this process's, and meets the other one."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", seat.devices // seat.processes)
    # A program that another version compiled may not name its layers.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    if seat.processes > 1:
        joining.join(seat.coordinator, seat.processes, seat.process, PATIENCE, listen=True)
    return f"JAX on {len(jax.devices())} devices"


def make(key: str, seat: Seat) -> "Towers":
    """The one way that there is."""
    del key
    return Towers(seat, make_mesh(1, seat.devices))


class Towers(Training):
    """The step of `alexnet_jax.main`, as every process of the mesh takes it."""

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """The losses of some steps, and what the first one changed of all parameters."""
        del first
        sums: list[float] = [0.0]
        changed: Arrays = {}
        for _ in range(CHECKED_STEPS):
            self.step()
            sums.append(float(self.out.running["loss"]))
            if not changed:
                changed = changes(self.before, jax.tree.map(hosts.whole, self.out.params))
        return {"losses": np.diff(sums) / self.batch} | changed

    def exchanges(self) -> list[Exchange]:
        """What the towers send each other, by the compiled program."""
        network = self.task.network
        layers = [*network.convolutions(), *network.hidden(), "fc8"]
        return exchanges(self.compiled.as_text(), layers)

    def profile(self, steps: int, wanted: set[str]) -> tuple[float, dict[str, list[float]]]:
        """Takes some steps under JAX's profiler.

        Args:
            steps: how many.
            wanted: names of instructions of the program.

        Returns:
            Seconds in all, and those of each instruction, in turn.
        """
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.host_tracer_level = 2
        with tempfile.TemporaryDirectory() as folder:
            jax.profiler.start_trace(folder, profiler_options=options)
            started = time.perf_counter()
            for _ in range(steps):
                self.step()
            seconds = time.perf_counter() - started
            jax.profiler.stop_trace()
            (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
            traced = jax.profiler.ProfileData.from_file(path)
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for plane in traced.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in wanted:
                        found[event.name].append((event.start_ns, event.duration_ns / 1e9))
        return seconds, {name: [spent for _, spent in sorted(all_)] for name, all_ in found.items()}
