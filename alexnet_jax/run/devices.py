"""The devices that a run computes on, as a (data, tower) mesh."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.model.mesh import make_mesh
from alexnet_jax.run import hosts


def start_devices(config: ConfigDict) -> None:
    """Lets the CPU stand in for as many devices as the mesh asks for; two if it does not say.

    So the path with two towers is the one that everybody runs. Harmless beside an accelerator. Has
    to come before the first use of jax; where that has happened, as in a notebook, says what there
    is.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:  # the user's own
        return
    devices = max(1, config.mesh.data) * (config.mesh.tower or config.model.towers)
    try:
        jax.config.update("jax_num_cpu_devices", -(-devices // hosts.count()))
    except RuntimeError:
        print(f"jax is already running; using its {len(jax.devices())} devices")


@contextlib.contextmanager
def enough_memory(config: ConfigDict, *fields: str) -> Iterator[None]:
    """Says which fields of a configuration to change where a device runs out of memory.

    Args:
        config: of the run.
        fields: its numbers of images at a time.

    Raises:
        UserError: the device is out of memory.
    """
    values = " and ".join(f"--config.{field}={config[field]}" for field in fields)
    training = "batch_size" in fields
    precision = f"--config.dtype={config.dtype}" if training else "float32, as every test is"
    other_type = ", or --config.dtype=bfloat16" * (training and config.dtype == "float32")
    with out_of_memory(f"{values} in {precision}: give fewer images at a time{other_type}"):
        yield


@contextlib.contextmanager
def out_of_memory(advice: str) -> Iterator[None]:
    """Says what was computed, and what to do, where a device runs out of memory.

    Raises:
        UserError: the device is out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"a device is out of memory, with {advice}") from error


def mesh_of(config: ConfigDict) -> Mesh:
    """The mesh that a configuration asks for.

    Raises:
        ConfigError: there are not so many devices, or the network has one tower only.
    """
    try:
        one_tower = config.mesh.tower == 0 and config.model.towers == 1
        mesh = make_mesh(config.mesh.data, 1 if one_tower else config.mesh.tower)
    except ValueError as error:
        raise settings.ConfigError(f"--config.{error}") from error
    if mesh.shape["tower"] > config.model.towers:
        raise settings.ConfigError(
            f"--config.mesh.tower={mesh.shape['tower']}: this network is one tower "
            "(model.towers=1); set mesh.tower=1"
        )
    keep_compiled(mesh.devices.flat[0].platform)
    return mesh


def keep_compiled(platform: str) -> None:
    """Lets the next start have what an accelerator's compiler makes, which takes minutes on a TPU.

    In `$XDG_CACHE_HOME/alexnet_jax/compiled`, or where JAX_COMPILATION_CACHE_DIR says. Not on a
    CPU: such a program is for one processor and may fail on another one that shares the directory.

    Args:
        platform: of the devices.
    """
    if platform == "cpu" or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(caches / "alexnet_jax" / "compiled"))
