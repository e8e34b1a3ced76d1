"""Reading checkpoints by orbax, and telling damage from what is not the checkpoint's fault."""

import contextlib
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from alexnet_jax.errors import UserError
from alexnet_jax.model.mesh import shardings
from alexnet_jax.run import hosts, momentum, noise

Tree = Any

# What tensorstore says where the disk, the network or the memory failed, not the bytes; a file that
# is not there (2) is damage.
CANNOT_READ = re.compile(
    r"os_error_code='(?!2')|^(PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|ABORTED|CANCELLED|"
    r"DEADLINE_EXCEEDED)\b"
)


class Damaged(Exception):
    """A checkpoint does not hold what was saved."""


def read(path: Path, load: Callable[[], Any]) -> Any:
    """What `load` reads of a checkpoint.

    Args:
        path: of the checkpoint, for the message.
        load: reads it.

    Raises:
        Damaged: it is not what was saved.
        UserError: it could not be read now, which is not its fault.
    """
    with noise.quiet(), _alone():
        try:
            return load()
        except Exception as error:
            damage, failure = first_line(error), _cannot_read(error)
        gc.collect()  # what it left half done complains when it goes
    if not failure:
        raise Damaged(damage)
    raise UserError(
        f"checkpoint {path} cannot be read: {failure}. It may well be "
        "sound, and nothing was changed: fix that and give the same command again"
    )


def _alone() -> contextlib.AbstractContextManager[Any]:
    """Orbax as if there were no other processes: what is in here waits for none."""
    if not hosts.several():
        return contextlib.nullcontext()
    me = hosts.number()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
    )


def count_alike() -> None:
    """Brings orbax's count of loads and saves, by which processes meet, to the largest of all.

    Each has read alone, and who met damage has read less: without this, no save would end.
    """
    if not hosts.several():
        return
    from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator as Count

    largest = max(map(int, hosts.gather(Count.get_current_operation_id())))
    while int(Count.get_current_operation_id()) < largest:
        Count.next_operation_id()


def load_record(path: Path) -> dict[str, Any]:
    """The plain data of a checkpoint."""
    for file in path.rglob("*"):  # orbax takes what it cannot read for what is not there
        if not file.is_dir():
            with file.open("rb") as opened:
                opened.read(1)
    return dict(ocp.checkpointables_metadata(path).custom_metadata or {})


def load_arrays(path: Path, abstract: dict[str, Tree], mesh: Mesh) -> dict[str, Tree]:
    """The trees of a checkpoint, those that are asked for, on a mesh."""
    asked = momentum.as_saved(abstract, ocp.checkpointables_metadata(path).metadata)
    targets = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        asked,
        shardings(asked, mesh),
    )
    return dict(ocp.load_checkpointables(path, targets))


def _cannot_read(error: BaseException) -> str:
    """Why a read failed that does not depend on the bytes; empty if there is no such reason."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        pending += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        memory = isinstance(one, (MemoryError, jax.errors.JaxRuntimeError))
        if memory or (isinstance(one, OSError) and not isinstance(one, FileNotFoundError)):
            return first_line(one)
        if CANNOT_READ.search(str(one)):
            return first_line(one)
    return ""


def first_line(error: BaseException) -> str:
    """Of what an error says, if it says anything."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
