"""From a configuration to the parts of a run: devices, mesh, data, network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.data.cache import Cache, ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet, make_mesh, towers


class Parts(NamedTuple):
    """What training and evaluation both need."""

    cache: Cache
    mesh: Mesh
    model: AlexNet


def build(config: ConfigDict) -> Parts:
    """The mesh, the data (prepared if need be) and the network of a configuration.

    Raises:
        UserError: they cannot be made, or do not fit each other.
    """
    config_lib.check(config)
    mesh = _mesh(config)
    data = config.data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    for use in ("train", "validation", "test"):
        split = config.data[use]
        if split and not len(cache.images.get(split, ())):
            raise UserError(
                f"--config.data.{use}={split}: the splits with images of {cache.name} are "
                f"{', '.join(name for name, images in cache.images.items() if len(images))}; name "
                "one of them (data.validation may be empty, or made by data.holdout=N)"
            )
    network = config_lib.network(config)
    if network.classes != len(cache.class_names):
        raise config_lib.ConfigError(
            f"--config.model.classes={network.classes}: {cache.name} has "
            f"{len(cache.class_names)} classes; set "
            f"--config.model.classes={len(cache.class_names)}, or name another dataset by "
            "--config.data.source or --config.data.cache"
        )
    return Parts(cache, mesh, AlexNet(network, mesh, jnp.dtype(config.dtype)))


def start_devices(config: ConfigDict) -> None:
    """Lets the CPU stand in for as many devices as the mesh asks for; two if it does not say.

    So the path with two towers is the one that everybody runs. Harmless beside an accelerator. Has
    to come before the first use of jax; where that has happened, as in a notebook, says what there
    is.
    """
    towers_asked = config.mesh.tower or config.model.towers
    try:
        jax.config.update("jax_num_cpu_devices", max(1, config.mesh.data) * towers_asked)
    except RuntimeError:
        print(f"jax is already running; using its {len(jax.devices())} devices")


def _mesh(config: ConfigDict) -> Mesh:
    try:
        one_tower = config.mesh.tower == 0 and config.model.towers == 1
        mesh = make_mesh(config.mesh.data, 1 if one_tower else config.mesh.tower)
    except ValueError as error:
        raise config_lib.ConfigError(f"--config.{error}") from error
    if mesh.shape["tower"] > config.model.towers:
        raise config_lib.ConfigError(
            f"--config.mesh.tower={mesh.shape['tower']}: this network is one tower "
            "(model.towers=1); set mesh.tower=1"
        )
    return mesh


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Training, unlike evaluation, pads no batch.

    Raises:
        ConfigError: the batch does not divide over the data axis.
    """
    if config.batch_size % mesh.shape["data"]:
        raise config_lib.ConfigError(
            f"--config.batch_size={config.batch_size} does not divide over the data axis of the "
            f"mesh, {towers.describe(mesh)}: make it a multiple of {mesh.shape['data']}, or set "
            "mesh.data"
        )
