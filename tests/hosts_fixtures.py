"""Processes that are threads: each has an `alexnet_jax.run.hosts` of its own, and one client that
keeps what they tell each other. Nothing of JAX runs."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from types import ModuleType, SimpleNamespace
from typing import Any

from alexnet_jax.run import hosts


class Client:
    """Like that of JAX's coordination service, as far as `hosts` uses it."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self.changed:
            if key in self.held and not allow_overwrite:
                raise RuntimeError(f"ALREADY_EXISTS: {key}")
            self.held[key] = value
            self.changed.notify_all()

    def key_value_delete(self, key: str) -> None:
        with self.changed:
            del self.held[key]

    def key_value_try_get(self, key: str) -> str:
        with self.changed:
            if key not in self.held:
                raise RuntimeError(f"NOT_FOUND: {key}")
            return self.held[key]

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.held, milliseconds / 1000):
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.held[key]


def processes(count: int) -> list[Any]:
    """A copy of `hosts` for each of so many processes, which are quick to give up."""
    client, copies = Client(), []
    for number in range(count):
        spec = util.find_spec(hosts.__name__)
        assert spec is not None and spec.loader is not None
        copy: Any = util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        state = SimpleNamespace(num_processes=count, process_id=number, client=client)
        copy._state = lambda state=state: state
        copy.LAST_WORDS, copy.REASON = 0.3, 1.0
        copy.POLL = 0.05
        copies.append(copy)
    return copies


def at_once(do: Callable[[Any], Any], of: list[ModuleType], apart: float = 0.0) -> list[Any]:
    """What `do` gives, or raises, in each process; the others start when the last has begun.

    Args:
        do: gets the process's `hosts`.
        of: the processes.
        apart: seconds between their starts, the last one first.
    """

    def attempt(process: Any) -> Any:
        time.sleep(apart * (len(of) - 1 - process.number()))
        try:
            return do(process)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(of)) as pool:
        return [future.result(20) for future in [pool.submit(attempt, one) for one in of]]
