"""What a run saves, and how it comes back, on whatever devices there are then.

A checkpoint is one orbax directory with two trees of global arrays, `model` (all that evaluation
needs) and `training` (momentum, step, plateau, running sums), and a record: the position of the
input and a fingerprint of each tree. Orbax reads altered bytes without a word; the fingerprints
notice, and the run goes back to the checkpoint before.
"""

import contextlib
import functools
import gc
import json
import logging
import math
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from alexnet_jax.errors import UserError
from alexnet_jax.model.mesh import shardings

Tree = Any
Record = dict[str, Any]


class Checkpoints:
    """The checkpoints of a run: the latest few, and the best by validation error.

    A context manager; leaving it waits for a save under way.
    """

    def __init__(self, directory: Path, keep: int = 3, *, read_only: bool = False) -> None:
        """Args:
        directory: where they are, or will be.
        keep: how many of the latest are kept.
        read_only: leave unfinished saves alone, as another process may be writing them.

        Raises:
            UserError: the directory cannot be written.
        """
        self.directory, self.keep = directory, keep
        self._errors: dict[int, float] = {}  # of the validation at a step
        self._writer: ocp.training.Checkpointer | None = None
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs all that it raises
        try:
            if not read_only:
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {directory}: {error.strerror}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is None:
            return
        if error[0] is None:
            self.wait()
        try:
            self._writer.close()
        except Exception:
            # A failed save raises here once more; the first error is the one to show.
            if error[0] is None:
                raise

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, in order; an unfinished one has another name."""
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdigit())

    def best(self) -> int | None:
        """The step with the lowest validation error, if any was measured."""
        for step in set(self.steps()) - self._errors.keys():
            with contextlib.suppress(Exception):  # damaged, or being deleted
                self._errors[step] = self._record(step).get("top1_error", math.inf)
        measured = [step for step in self.steps() if self._errors.get(step, math.inf) < math.inf]
        return min(measured, key=self._errors.__getitem__, default=None)

    def save(self, step: int, trees: dict[str, Tree], record: Record, error: float | None) -> None:
        """Starts to save; the arrays are copied before this returns, the files are written later.

        Args:
            step: updates so far.
            trees: name to tree of global arrays.
            record: plain data that comes back with them.
            error: the validation's top-1 error at this step, if there was a validation.

        Raises:
            UserError: the save before this one failed, or this one could not start.
        """
        prints = {name: int(fingerprint(tree)) for name, tree in trees.items()}
        record = {**record, "step": step, "fingerprints": prints}
        if error is not None:
            self._errors[step] = record["top1_error"] = error
        self._carefully(
            lambda: self._open_writer().save_checkpointables_async(
                step, trees, custom_metadata={**record, "checksum": _checksum(record)}
            )
        )

    def wait(self) -> None:
        """Waits until the files are written.

        Raises:
            UserError: they could not be (a full disk, say); the earlier checkpoints stand.
        """
        if self._writer is not None:
            self._carefully(self._writer.wait)

    def _open_writer(self) -> ocp.training.Checkpointer:
        """Orbax's; at the first save, when what it would stumble over has been moved away."""
        if self._writer is None:
            for step in self.steps():
                try:
                    self._record(step)
                except Exception:  # a kill while it was being deleted, for one
                    print(f"moved the damaged checkpoint to {self._move_aside(step)}")
            self._writer = ocp.training.Checkpointer(
                self.directory.absolute(),
                save_decision_policy=_Always(),
                preservation_policy=_LatestAndBest(self),
                cleanup_tmp_directories=True,
            )
        return self._writer

    def _carefully(self, do: Callable[[], Any]) -> None:
        try:
            do()
        except Exception as error:  # tensorstore has an error type for each file system
            kept = ", ".join(map(str, self.steps())) or "none"
            raise UserError(
                f"could not save a checkpoint to {self.directory}: {_first_line(error)}. "
                f"Checkpoints that stand: {kept}. Free some space or fix the permissions, and "
                "give the same command again to resume."
            ) from error

    def restore(
        self,
        abstract: dict[str, Tree],
        mesh: Mesh,
        step: int | None = None,
        say: Callable[[str], None] = print,
    ) -> tuple[dict[str, Tree], Record] | None:
        """The newest sound checkpoint, or that of `step`, on the devices of `mesh`.

        Args:
            abstract: the trees wanted, of `jax.ShapeDtypeStruct`; may be fewer than were saved.
            mesh: where they shall lie.
            step: one checkpoint and no other.
            say: told about damaged ones.

        Returns:
            The trees and the record, or None if there is no checkpoint at all.

        Raises:
            UserError: there are checkpoints, but none is sound.
        """
        steps = self.steps() if step is None else [step]
        if not steps:
            return None
        targets = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract,
            shardings(abstract, mesh),
        )
        _ignore_stragglers()
        for candidate in reversed(steps):
            with _no_noise():
                try:
                    restored, record = self._load(candidate, targets)
                    damage = ""
                except Exception as error:
                    damage = _first_line(error)
                if damage:
                    gc.collect()  # what it left half done complains when it goes
            if damage:
                # Some of it goes at the interpreter's end only, and would complain then.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                say(f"checkpoint {self.directory / str(candidate)} is damaged: {damage}")
                continue
            if candidate != steps[-1]:
                say(f"falling back to the checkpoint of step {candidate}")
            return restored, record
        raise UserError(
            f"no checkpoint in {self.directory} can be read (tried: "
            f"{', '.join(map(str, reversed(steps)))}). Restore the files from a backup, or train "
            "again in an empty --workdir."
        )

    def _load(self, step: int, targets: dict[str, Tree]) -> tuple[dict[str, Tree], Record]:
        record = self._record(step)
        restored = ocp.load_checkpointables(self.directory.absolute() / str(step), targets)
        for name, tree in restored.items():
            if int(fingerprint(tree)) != record["fingerprints"][name]:
                raise ValueError(f"its {name} arrays are not those that were saved")
        return restored, record

    def _record(self, step: int) -> Record:
        path = self.directory.absolute() / str(step)
        with _no_noise():
            record = dict(ocp.checkpointables_metadata(path).custom_metadata or {})
        if record.pop("checksum", None) != _checksum(record):
            raise ValueError("its record has been altered")
        return record

    def discard_after(self, step: int) -> list[Path]:
        """Moves checkpoints newer than `step`, which were found damaged, out of the run's way."""
        return [self._move_aside(newer) for newer in self.steps() if newer > step]

    def _move_aside(self, step: int) -> Path:
        aside = self.directory.parent / "damaged_checkpoints" / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "x")
        aside.parent.mkdir(exist_ok=True)
        return (self.directory / str(step)).rename(aside)


class _Always:
    """Saves when told to, and only then; orbax's own policy adds and skips saves."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        del step, previous_steps, context
        return True


class _LatestAndBest:
    """Which checkpoints orbax shall keep."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._checkpoints.keep :], self._checkpoints.best()}
        return [step in kept for step in steps]


@functools.cache
def _ignore_stragglers() -> None:
    """Keeps late tracebacks of reads that orbax gave up from the user, and no others.

    At the first damaged array orbax closes its event loop; the reads still under way then report to
    a loop that is closed, from threads of tensorstore, until the end of the process.
    """
    show, show_unraisable = sys.excepthook, sys.unraisablehook

    def late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    def excepthook(kind: Any, error: BaseException, trace: Any) -> None:
        if not late(error):
            show(kind, error, trace)

    def unraisablehook(unraisable: Any) -> None:
        if not late(unraisable.exc_value):
            show_unraisable(unraisable)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that nobody asked again


@contextlib.contextmanager
def _no_noise() -> Iterator[None]:
    """Keeps pages of tracebacks by orbax and asyncio about damaged files from the user."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine was never awaited
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        sys.unraisablehook = lambda _: None
        try:
            yield
        finally:
            sys.unraisablehook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@jax.jit
def fingerprint(tree: Tree) -> jax.Array:
    """A 32-bit number that changes with any single word of any array, on any mesh the same.

    The sum, modulo 2 ** 32, of every word times an odd number that depends on its place. Integer
    sums do not care about order, so sharded arrays are summed where they lie.
    """
    total = jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        unsigned = np.dtype(f"uint{8 * leaf.dtype.itemsize}")
        words = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
        place = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
                jnp.uint32, leaf.shape, axis
            )
        total += jnp.uint32(2 * number + 1) * jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)
    return total


def _checksum(record: Record) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
