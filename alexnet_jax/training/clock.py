"""Time per step, and how much of it the device waited for data."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax


class Clock:
    """Time per step and the share of it that the device had to wait for data."""

    def __init__(self) -> None:
        self._first: float | None = None
        self.restart()

    def restart(self) -> None:
        """Forgets what happened until now (compilation, validation, a save)."""
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self, result: Any) -> Iterator[None]:
        """Times the fetching of a batch, which is waiting only if the device has nothing to do.

        Args:
            result: of the step before.
        """
        before = time.perf_counter()
        yield
        if result.is_ready():
            self._waited += time.perf_counter() - before

    def stepped(self, result: jax.Array) -> None:
        """Counts a dispatched step; waits for the first, so that compilation is not counted."""
        if self._first is None:
            jax.block_until_ready(result)
            self._first = time.perf_counter() - self._start
            self.restart()
        else:
            self._steps += 1

    def seconds_per_step(self) -> float:
        """Returns the time per step; call it when the device is done (after reading a result).

        Where there was only the first step, it is that one's, compilation and all.
        """
        if not self._steps:
            return self._first or 0.0
        return (time.perf_counter() - self._start) / self._steps

    def wait_fraction(self) -> float:
        """Returns the share of the time that the device waited for data, 0 to 1."""
        return self._waited / max(1e-9, time.perf_counter() - self._start)
