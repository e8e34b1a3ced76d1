"""The weights of a run, from its last checkpoint or its best."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet
from alexnet_jax.run.checkpoint import Checkpoints

Tree = Any


def restore_weights(
    config: ConfigDict, workdir: Path, mesh: Mesh, *, best: bool = False
) -> tuple[Tree, dict[str, Any]]:
    """Restores `params` and `batch_stats` of a run's last checkpoint, or its best, on a mesh.

    Returns:
        The two, and the checkpoint's record.

    Raises:
        UserError: there is no such checkpoint.
    """
    shapes = AlexNet(settings.network(config), mesh).shapes()
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.best() if best else None
        if best and step is None:
            raise UserError(f"{workdir} has no validation errors to choose by: leave out --best")
        found = checkpoints.restore({"model": shapes}, mesh, step)
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it with --mode=train")
    trees, record = found
    return trees["model"], record
