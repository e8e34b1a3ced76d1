"""A small network with random weights, saved as a run is saved."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np

from alexnet_jax import settings
from alexnet_jax.model import Network
from alexnet_jax.run import inputs
from alexnet_jax.run.checkpoint import Checkpoints

SIZE = 110  # of the pictures that views of 96 are cut from
CLASSES = [f"class {i}" for i in range(12)]


def mean_image(size: int = SIZE) -> np.ndarray:
    """A smooth one, no two pixels alike."""
    rows, columns = np.mgrid[:size, :size] / size
    return np.stack([100 + 30 * rows, 120 - 20 * columns, 90 + 10 * rows * columns], -1)


def pictures(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """uint8 (N, S, S, 3) with coarse and fine structure."""
    noise = fixtures.random_images(count, size, seed)
    return np.clip(noise + 120, 0, 255).astype(np.uint8)


def save_network(
    workdir: Path,
    network: Network | None = None,
    seed: int = 0,
    *assignments: str,
    classes: list[str] = CLASSES,
) -> dict[str, dict[str, np.ndarray]]:
    """Writes a run directory; returns the float32 parameters."""
    network = network or fixtures.small_network()
    config = fixtures.small_config(f"data.size={SIZE}", *assignments, network=network)
    params = {
        layer: {name: np.asarray(value, np.float32) for name, value in arrays.items()}
        for layer, arrays in fixtures.random_params(network, seed).items()
    }
    workdir.mkdir(parents=True, exist_ok=True)
    settings.save(config, workdir / "config.json")
    inputs.write_input(workdir, mean_image(), classes)
    save_checkpoint(workdir, params, 3)
    return params


def save_checkpoint(workdir: Path, params: Any, step: int, error: float | None = None) -> None:
    """Adds a checkpoint to a run; `error` is the top-1 error of its validation, if it had one."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        trees = {"model": {"params": jax.tree.map(jnp.asarray, params), "batch_stats": {}}}
        checkpoints.save(step, trees, {"input": None, "dataset": None}, error)


def save_best_and_last(workdir: Path, params: Any, best: int, last: int) -> None:
    """Adds a good checkpoint and a later one, which is worse: all weights are zero."""
    save_checkpoint(workdir, params, best, 0.25)
    save_checkpoint(workdir, jax.tree.map(np.zeros_like, params), last, 0.75)
