"""What a run saves, and how it comes back, on whatever devices there are then.

A checkpoint is one orbax directory with two trees of global arrays, `model` (all that evaluation
needs) and `training` (momentum, step, plateau, running sums), and a record: the position of the
input, the versions of the libraries, and the form and a fingerprint of each tree. Orbax reads
altered bytes without a word; the fingerprints notice, and the run goes back to the checkpoint
before. A file that could not be read now, or trees of another form, are no damage: they stop the
run, and nothing is moved.
"""

import contextlib
import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from alexnet_jax.errors import UserError
from alexnet_jax.model.mesh import make_mesh, shardings
from alexnet_jax.run import hosts, momentum, noise, versions
from alexnet_jax.run.reading import Damaged, count_alike, first_line, load_arrays, load_record, read
from alexnet_jax.signals import COMMAND

Tree = Any
Record = dict[str, Any]

SAVED = ".saved"  # beside the checkpoints' directory, with the last step that was saved


SAVING = 600  # seconds that a process whose part is saved waits for the others


class SaveFailed(UserError):
    """A checkpoint could not be written."""


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
        self._under_way: int | None = None  # the step that is being saved
        self._noise = contextlib.ExitStack()
        self._writer: ocp.training.Checkpointer | None = None
        try:
            if not read_only and hosts.first():
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {directory}: {error.strerror}") from error

    def __enter__(self) -> "Checkpoints":
        self._noise.enter_context(noise.quiet_log())
        return self

    def __exit__(self, *error: object) -> None:
        with self._noise, COMMAND.patient():  # a stop is no reason to lose what is being saved
            try:
                # Closing waits for the others, which may have gone.
                if error[0] is None or not hosts.several():
                    self.wait()
                    if self._writer is not None:
                        self._carefully(self._writer.close)
            except SaveFailed as failed:
                if error[0] is None:
                    raise
                if not isinstance(error[1], SaveFailed):  # it fails here once more
                    print(failed, flush=True)

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, in order; an unfinished one has another name."""
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())

    def best(self) -> int | None:
        """The step with the lowest validation error, if any was measured."""
        return hosts.from_first(self.own_best)

    def own_best(self) -> int | None:
        """The same, as this process finds it on the disk."""
        for step in set(self.steps()) - self._errors.keys():
            with contextlib.suppress(Damaged):  # or being deleted
                self._errors[step] = self._record(step).get("top1_error", math.inf)
        measured = [step for step in self.steps() if self._errors.get(step, math.inf) < math.inf]
        return min(measured, key=self._errors.__getitem__, default=None)

    def is_best(self, error: float | None) -> bool:
        """Whether a validation's top-1 error is lower than those of all checkpoints."""
        if error is None:
            return False

        def lowest() -> float:
            self.own_best()  # it reads those of an earlier process
            return min(self._errors.values(), default=math.inf)

        return hosts.from_first(lambda: error < lowest())

    def save(self, step: int, trees: dict[str, Tree], record: Record, error: float | None) -> None:
        """Starts to save; the arrays are copied before this returns, the files are written later.

        Args:
            step: updates so far.
            trees: name to tree of global arrays.
            record: plain data that comes back with them.
            error: the validation's top-1 error at this step, if there was a validation.

        Raises:
            SaveFailed: the save before this one, or the start of this one.
        """
        prints = {name: int(fingerprint(tree)) for name, tree in trees.items()}
        record = {
            **record,
            "step": step,
            "fingerprints": prints,
            "forms": {name: _form(tree) for name, tree in trees.items()},
            "versions": versions.installed(),
        }
        if error is not None:
            self._errors[step] = record["top1_error"] = error
        self.wait()  # as orbax would
        self._carefully(
            lambda: self._open_writer().save_checkpointables_async(
                step, trees, custom_metadata={**record, "checksum": _checksum(record)}
            )
        )
        self._under_way = step

    def wait(self) -> None:
        """Waits until the files are written.

        Raises:
            SaveFailed: they could not be (a full disk, say); the earlier checkpoints stand.
        """
        under_way, self._under_way = self._under_way, None  # or nothing, if it fails
        if self._writer is not None:
            with COMMAND.patient():
                self._carefully(self._writer.wait)
        if under_way is not None and hosts.first():
            with contextlib.suppress(OSError):  # a full disk is noticed by what matters
                (self.directory.parent / SAVED).write_text(f"{under_way}\n")

    def prepare_to_save(self) -> None:
        """Moves away what the first save would stumble over.

        Raises:
            UserError: one cannot be read now, which is better known before anything is changed.
        """
        self._open_writer()

    def _open_writer(self) -> ocp.training.Checkpointer:
        """Orbax's; at the first save, when what it would stumble over has been moved away."""
        if self._writer is None:
            with hosts.together():
                for step in self.steps() if hosts.first() else ():
                    try:
                        self._record(step)
                    except Damaged:  # a kill while it was being deleted, for one
                        print(f"moved the damaged checkpoint to {self._move_aside(step)}")
            count_alike()
            with ocp.Context(async_options=ocp.options.AsyncOptions(timeout_secs=SAVING)):
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
            if hosts.lost(error):
                raise
            kept = ", ".join(map(str, self.steps())) or "none"
            raise SaveFailed(
                f"could not save a checkpoint to {self.directory}: {first_line(error)}. "
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
            UserError: there are checkpoints, but none is sound, or one cannot be read now, or holds
                arrays of another form.
        """
        steps = hosts.from_first(self.steps) if step is None else [step]
        if not steps:
            return None
        for candidate in reversed(steps):
            damage = ""
            with hosts.together():
                try:
                    restored, record = self._load(candidate, abstract, mesh)
                except Damaged as found:
                    damage = str(found)
            if damage := next(filter(None, hosts.gather(damage)), ""):
                say(f"checkpoint {self.directory / str(candidate)} is damaged: {damage}")
                continue
            if hosts.several():
                restored = jax.tree.map(hosts.place, restored, shardings(restored, mesh))
            if candidate != steps[-1]:
                say(f"falling back to the checkpoint of step {candidate}")
            return restored, record
        raise UserError(
            f"no checkpoint in {self.directory} can be read (tried: "
            f"{', '.join(map(str, reversed(steps)))}). Restore the files from a backup, or train "
            "again in an empty --workdir."
        )

    def _load(
        self, step: int, abstract: dict[str, Tree], mesh: Mesh
    ) -> tuple[dict[str, Tree], Record]:
        if hosts.several():  # each reads all of it, or damage would leave the others waiting
            mesh = make_mesh(1, 1, devices=jax.local_devices())
        path = self.directory.absolute() / str(step)
        record = self._record(step)
        for name, form in record.get("forms", {}).items():  # earlier versions had none
            if name in abstract and form != _form(abstract[name]):
                raise UserError(
                    f"checkpoint {path} is whole, but its {name} arrays have other names or shapes "
                    "than this program and this configuration expect. Use the versions that saved "
                    f"it ({versions.differing(record['versions']) or 'the same as here'}) and the "
                    "run's own config.json, or another --workdir"
                )
        restored = read(path, lambda: load_arrays(path, abstract, mesh))
        for name, tree in restored.items():
            if int(fingerprint(tree)) != record["fingerprints"][name]:
                raise Damaged(f"its {name} arrays are not those that were saved")
        restored = momentum.as_now(restored, abstract)
        return jax.tree.map(np.asarray, restored) if hosts.several() else restored, record

    def _record(self, step: int) -> Record:
        path = self.directory.absolute() / str(step)
        record: Record = read(path, lambda: load_record(path))
        if record.pop("checksum", None) != _checksum(record):
            raise Damaged("its record has been altered")
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
        # What process 0 decides counts, and orbax may ask from a thread of its own.
        kept = {*sorted(steps)[-self._checkpoints.keep :], self._checkpoints.own_best()}
        return [step in kept for step in steps]


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


def _form(tree: Tree) -> int:
    """A number that changes with the name, the shape or the type of any array."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    rows = [[name, leaf.shape, str(leaf.dtype)] for name, (_, leaf) in zip(names, leaves)]
    return zlib.crc32(json.dumps(rows).encode())


def _checksum(record: Record) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
