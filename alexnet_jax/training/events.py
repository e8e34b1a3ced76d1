"""The file of a run that TensorBoard shows."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alexnet_jax.run.metrics import Row


def _import_tensorboardx() -> Any:
    """Imports tensorboardX without torch, which it would load, in two seconds, and not need."""
    hidden: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)
    try:
        import tensorboardX.event_file_writer
        import tensorboardX.proto.event_pb2
        import tensorboardX.summary
    finally:
        for name in hidden:
            del sys.modules[name]
    return tensorboardX


tensorboardX = _import_tensorboardx()


SECONDS = 5.0  # between two flushes: each waits for the disk


class Events:
    """Writes the numbers of rows at once, from where it is called; a file that fails is given up.

    tensorboardX's own writer has a thread with a queue before it. After one write that failed, as
    on a disk that is full for a moment, the thread is gone, and whoever fills the queue waits for
    ever. A run has its numbers in `metrics.jsonl` as well, and goes on without these.
    """

    def __init__(self, folder: Path, start: int, say: Callable[[str], None]) -> None:
        """Args:
        folder: of this run's events; the file is made with the first call of `add`.
        start: the step it starts or resumes from: TensorBoard forgets the events after it.
        say: tells the user when the file is given up.
        """
        self._folder, self._start, self._say = folder, start, say
        self._writer: Any = None
        self._failed = False
        self._flushed = 0.0

    def add(self, *rows: Row) -> None:
        """Writes every number of the rows that is no count, at their step; with none, the start."""
        if self._failed:
            return
        with self._expendable():
            if self._writer is None:
                self._open()
            for row in rows:
                views = f"_{row['views']}_views" if row.get("views", 1) > 1 else ""
                for name, value in row.items():
                    if isinstance(value, float) and name != "epoch":
                        tag = f"{row['split']}{views}/{name}"
                        self._write(row["step"], summary=tensorboardX.summary.scalar(tag, value))
            if time.monotonic() > self._flushed + SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None and not self._failed:
            with self._expendable():
                self._writer.close()

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = tensorboardX.event_file_writer.EventsWriter(
            str(self._folder / "events"), filename_suffix=f".{os.getpid()}"
        )
        log = tensorboardX.proto.event_pb2.SessionLog
        self._write(self._start + 1, session_log=log(status=log.START))

    def _write(self, step: int, **what: Any) -> None:
        event = tensorboardX.proto.event_pb2.Event(step=step, wall_time=time.time(), **what)
        self._writer.write_event(event)

    @contextlib.contextmanager
    def _expendable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            self._say(
                f"note: no more is written for TensorBoard ({error.strerror or error}); "
                "metrics.jsonl goes on"
            )
