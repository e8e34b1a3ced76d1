"""From a configuration to the parts of a run: devices, mesh, data, network."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet
from alexnet_jax.model.mesh import describe_mesh
from alexnet_jax.run import hosts
from alexnet_jax.run.devices import mesh_of


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
    settings.check(config)
    mesh = mesh_of(config)
    data = config.data
    cache = hosts.in_turn(
        lambda: ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    )
    hosts.check_same("the fingerprint of the images", cache.fingerprint)
    for use in ("train", "validation", "test"):
        split = config.data[use]
        if split and not len(cache.images.get(split, ())):
            raise UserError(
                f"--config.data.{use}={split}: the splits with images of {cache.name} are "
                f"{', '.join(name for name, images in cache.images.items() if len(images))}; name "
                "one of them (data.validation may be empty, or made by data.holdout=N)"
            )
    network = settings.network(config)
    if network.classes != len(cache.class_names):
        raise settings.ConfigError(
            f"--config.model.classes={network.classes}: {cache.name} has "
            f"{len(cache.class_names)} classes; set "
            f"--config.model.classes={len(cache.class_names)}, or name another dataset by "
            "--config.data.source or --config.data.cache"
        )
    frozen = tuple(layer for layer, rate in config.optim.rates.items() if rate == 0)
    return Parts(cache, mesh, AlexNet(network, mesh, jnp.dtype(config.dtype), frozen))


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Training, unlike evaluation, pads no batch.

    Raises:
        ConfigError: the batch does not divide over the data axis.
    """
    parts = mesh.shape["data"] * config.accumulate
    if config.batch_size % parts:
        raise settings.ConfigError(
            f"--config.batch_size={config.batch_size} does not divide over the data axis of the "
            f"mesh, {describe_mesh(mesh)}"
            f"{f', in {config.accumulate} parts (accumulate)' * (config.accumulate > 1)}: make it "
            f"a multiple of {parts}, or set mesh.data"
        )
