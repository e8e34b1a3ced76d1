"""Several processes that train or test one network, on one machine or on many.

JAX does the work: its coordination service knows who is there and who has gone, its collectives
compute, and orbax writes the checkpoints of many processes. Here is what keeps them together:

1. All do the same in the same order, since every computation on the mesh waits for all. What may be
   otherwise in one of them (a file, a flag, a signal, damage) is agreed upon first, by `together`,
   `from_first`, `check_same` and `Votes`.
2. Process 0 alone prints and writes (`first`).
3. Who fails says why, and leaves at once (`leave`): JAX's own way out waits for the others.

In a single process all of it does nothing.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from alexnet_jax.errors import UserError
from alexnet_jax.signals import COMMAND

PATIENCE = 60  # seconds after which a process that does not answer has gone
LAST_WORDS = 5.0  # seconds that process 0 stays at most for the others to say why they go
REASON = 2.0  # seconds that it may take to hear why another goes, or to see what it wrote
POLL = 0.5  # seconds between looks at a signal, where others are waited for
GONE = "alexnet_jax/gone"  # and the process's number: why it goes
LEFT = "alexnet_jax/left"  # and the number: it has said all
LOST = ("Gloo", "oordination service", "Barrier", "heartbeat", "Connection reset", "NCCL")

_calls = 0  # of `gather`


class Elsewhere(UserError):
    """What another process has said already."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


# --- who there is ---------------------------------------------------------------------------------


def _state() -> Any:
    """JAX's own, which has no public name: its client is the only way to talk without devices."""
    from jax._src import distributed

    return distributed.global_state


def count() -> int:
    """How many processes there are. Starts no device."""
    return _state().num_processes if "jax" in sys.modules else 1


def number() -> int:
    """Which of them this is, from 0."""
    return _state().process_id if "jax" in sys.modules else 0


def several() -> bool:
    """Whether there are others."""
    return count() > 1


def first() -> bool:
    """Whether this is the process that prints and writes."""
    return number() == 0


def name() -> str:
    """'process 1 of 2: ' before what it says; empty if it is alone."""
    return f"process {number()} of {count()}: " if several() else ""


# --- agreement ------------------------------------------------------------------------------------


def gather(text: str) -> list[str]:
    """A text of every process, in their order; waits for all.

    Raises:
        Elsewhere: one has left instead.
    """
    global _calls
    if not several():
        return [text]
    client, mine = _state().client, _key(_calls + 1, number())
    client.key_value_set(mine, text)
    _calls += 1
    answers = [_answer(client, _key(_calls, other), other) for other in range(count())]
    if _calls > 1:  # who has this answer has read all of the call before
        client.key_value_delete(_key(_calls - 1, number()))
    return answers


def _key(call: int, process: int) -> str:
    return f"alexnet_jax/{call}/{process}"


def _answer(client: Any, key: str, other: int) -> str:
    """What another process says; looks up now and then, for signals and for who has left."""
    while True:
        try:
            return str(client.blocking_key_value_get(key, round(1000 * POLL)))
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        _check_left(client, other)


def _check_left(client: Any, other: int) -> None:
    try:
        words = client.key_value_try_get(f"{GONE}/{other}")
    except Exception:  # it is not there
        return
    code, _, why = words.partition(" ")
    raise Elsewhere(f"process {other} has ended: {why}", int(code) or 1)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What one process cannot do, none goes on from: an error of one is raised by all.

    What is inside must not wait for others.

    Raises:
        Elsewhere: in the processes other than the first that failed, which raises its own error.
    """
    if not several():
        yield
        return
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    code = getattr(failed, "exit_code", 1)
    answers = gather("" if failed is None else f"{code} {failed}")
    for other, answer in enumerate(answers):
        if answer:
            if failed is not None and other == number():
                raise failed
            code_, _, why = answer.partition(" ")
            raise Elsewhere(f"process {other}: {why}", int(code_))


def in_turn(do: Callable[[], Any]) -> Any:
    """What `do` gives, done by process 0 first, and then by the others: they find what it made."""
    done = None
    for turn in (True, False) if several() else (True,):
        with together():
            if first() == turn:
                done = do()
    return done


def from_first(do: Callable[[], Any]) -> Any:
    """What `do` gives in process 0, in all of them; something that JSON can hold."""
    if not several():
        return do()
    with together():
        text = json.dumps(do()) if first() else ""
    return json.loads(gather(text)[0])


def check_same(what: str, value: Any) -> None:
    """Refuses to go on where processes have different values.

    Args:
        what: for the message.
        value: something that JSON can hold; of a dictionary the first key that differs is named.

    Raises:
        UserError: in process 0; `Elsewhere` in the others.
    """
    if not several():
        return
    texts = gather(json.dumps(value, sort_keys=True))
    with together():
        value = json.loads(texts[number()])
        for other, text in enumerate(texts):
            theirs = json.loads(text)
            if first() and theirs != value:
                pairs = [("", value, theirs)]
                if isinstance(value, dict) and isinstance(theirs, dict):
                    keys = sorted({*value, *theirs})
                    pairs = [(f" {key}", value.get(key), theirs.get(key)) for key in keys]
                differing = [pair for pair in pairs if pair[1] != pair[2]]
                key, mine, other_value = differing[0]
                raise UserError(
                    f"{what}{key.strip()} is {mine!r} in process 0 and {other_value!r} in process "
                    f"{other}: give the same command to all"
                )


def check_shared(directory: Any) -> None:
    """Refuses a directory that is another one on another machine.

    Raises:
        UserError: what process 0 writes there is not seen by all.
    """
    if not several():
        return
    token = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    mark = directory / ".hosts"
    token = from_first(lambda: (mark.write_text(token), token)[1])
    with together():
        end = time.monotonic() + REASON  # a network's file system may be late
        while not (mark.is_file() and mark.read_text() == token):
            if time.monotonic() > end:
                raise UserError(
                    f"--workdir={directory} is not the one that process 0 writes: put it on a disk "
                    "that all processes share, under the same path"
                )
            time.sleep(0.1)
    if first():
        mark.unlink(missing_ok=True)


class Votes:
    """Which signal has asked any of the processes to stop: all stop after the same step."""

    def __init__(self, mesh: Any) -> None:
        """Args:
        mesh: of the run.
        """
        self._last: Any = None
        if not several():
            return
        import jax
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        one_axis = Mesh(np.asarray(mesh.devices).reshape(-1), ("all",))
        self._votes = NamedSharding(one_axis, PartitionSpec("all"))
        self._largest = jax.jit(
            lambda votes: votes.max(), out_shardings=NamedSharding(one_axis, PartitionSpec())
        )

    def cast(self, signal_number: int, *, last: bool = False) -> int:
        """Says what this process wants, and returns what one of them wanted a step ago.

        So none waits here for a step that is under way.

        Args:
            signal_number: 0 for none.
            last: there is no step after this one, return what is wanted now.
        """
        if not several():
            return signal_number
        import jax
        import numpy as np

        votes = jax.make_array_from_callback(
            (self._votes.num_devices,),
            self._votes,
            lambda index: np.full(1, signal_number, np.int32),
        )
        before, self._last = self._last, self._largest(votes)
        counted = self._last if last else before
        return 0 if counted is None else int(counted)


# --- arrays ---------------------------------------------------------------------------------------


def place(array: Any, sharding: Any) -> Any:
    """A host array, that all processes have whole, as a global one on their devices."""
    import jax

    if not several():
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def whole(array: Any) -> Any:
    """All of a global array, in every process, as NumPy's."""
    import numpy as np

    if not several():
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


# --- how it ends ----------------------------------------------------------------------------------


def said_by_another(text: str, code: int) -> bool:
    """Tells the others why this process ends, and whether one of them says the same."""
    if not several():
        return False
    client = _state().client
    with contextlib.suppress(Exception):
        client.key_value_set(f"{GONE}/{number()}", f"{code} {text}", allow_overwrite=True)
    if first():
        return False
    with contextlib.suppress(Exception):
        return bool(
            client.blocking_key_value_get(f"{GONE}/0", round(500 * REASON)) == f"{code} {text}"
        )
    return False


def lost(error: Exception) -> bool:
    """Whether an error came because another process has gone."""
    return several() and any(word in str(error) for word in LOST)


def why_lost(error: Exception) -> str:
    """What an error means that came because another process has gone; empty if it did not."""
    if not lost(error):
        return ""
    client = _state().client
    end = time.monotonic() + REASON
    while time.monotonic() < end:
        for other in range(count()):
            try:
                _check_left(client, other)
            except Elsewhere as found:
                return str(found)
            except Exception:
                break
        time.sleep(POLL / 2)
    return "another process has gone"


def leave(code: int) -> NoReturn:
    """Ends this process without waiting for the others, as JAX would.

    The end of process 0 is the end of the coordination service: it stays until the others have left
    or had time to read why it does.
    """
    COMMAND.claim(code)  # all is said: that another one has gone as well is no news
    sys.stdout.flush()
    sys.stderr.flush()
    if several() and not first():
        with contextlib.suppress(Exception):
            _state().client.key_value_set(f"{LEFT}/{number()}", "")
    end = time.monotonic() + LAST_WORDS
    for other in range(1, count()) if first() else ():
        left = max(0.0, end - time.monotonic())
        with contextlib.suppress(Exception):
            _state().client.blocking_key_value_get(f"{LEFT}/{other}", round(1000 * left) + 1)
    os._exit(code)
