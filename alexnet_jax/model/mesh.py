"""Two towers on a (data, tower) device mesh (paper section 3.2).

In 2012 each GPU held half of the kernels of every layer, and the GPUs exchanged activations only on
the way into conv3 and the fully connected layers. Here the parameters are *global* arrays whose
last axis (the kernels, or units, of a layer) is sharded over the mesh's `tower` axis, so a
checkpoint does not know the mesh. The batch is sharded over `data`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = Any

IMAGES = PartitionSpec("data")  # a batch, each device with its share of the images
MAPS_OF_OWN_TOWER = PartitionSpec("data", None, None, "tower")


def make_mesh(
    data: int = 0, tower: int = 0, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A `data` x `tower` mesh; 0 means: tower 2 if the number of devices is even, data the rest.

    Of several processes each gives as many devices, which follow each other: two towers are in one
    process where they can be.

    Raises:
        ValueError: a tower axis other than 1 or 2, more devices than there are, or a number of them
            that the processes cannot share evenly.
    """
    devices = list(jax.devices() if devices is None else devices)
    if tower not in (0, 1, 2):
        raise ValueError(
            f"mesh.tower={tower}: the network has two towers, so the tower axis is 1 or 2"
        )
    if data < 0:
        raise ValueError(f"mesh.data={data}: give a positive number, or 0 for all devices")
    if tower == 0:
        asked = data if data else len(devices)
        tower = 2 if (data and 2 * asked <= len(devices)) or (not data and asked % 2 == 0) else 1
    data = data or max(1, len(devices) // tower)
    if data * tower > len(devices):
        raise ValueError(
            f"mesh.data={data} with mesh.tower={tower} needs {data * tower} devices, there "
            f"{'is' if len(devices) == 1 else 'are'} {len(devices)}; 0 takes what there is"
        )
    grid = np.asarray(_of_each_process(devices, data, tower)).reshape(data, tower)
    return Mesh(grid, ("data", "tower"), axis_types=(AxisType.Auto,) * 2)


def _of_each_process(devices: Sequence[jax.Device], data: int, tower: int) -> list[jax.Device]:
    """The devices of a mesh, as many of every process, one process after the other."""
    own: dict[int, list[jax.Device]] = {}
    for device in devices:
        own.setdefault(device.process_index, []).append(device)
    each, rest = divmod(data * tower, len(own))
    split = each > 1 and each % tower  # towers apart, and others together
    if rest or split or each > min(map(len, own.values())):
        raise ValueError(
            f"mesh.data={data} with mesh.tower={tower} cannot be shared by {len(own)} processes of "
            f"{' and '.join(str(len(of)) for _, of in sorted(own.items()))} devices: each has to "
            "give as many, "
            + ("one or an even number of them" if tower > 1 else "and at least one")
        )
    return [device for _, of in sorted(own.items()) for device in of[:each]]


def spec_of(shape: Sequence[int], towers: int) -> PartitionSpec:
    """The one rule of placement: the last axis lies over the towers, if it divides evenly.

    It covers kernels, biases, momentum and running averages. What does not divide (fc8 with an odd
    number of classes; in 2012 it lived on GPU 0 alone) is replicated, as are scalars.
    """
    if shape and shape[-1] % towers == 0:
        return PartitionSpec(*(None,) * (len(shape) - 1), "tower")
    return PartitionSpec()


def shardings(tree: Tree, mesh: Mesh) -> Tree:
    """The `NamedSharding` of every array (or `ShapeDtypeStruct`) in a tree, by `spec_of`."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, spec_of(leaf.shape, mesh.shape["tower"])), tree
    )


def constrain(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """Says where `x` lies; a change from one tower to both is an all-gather."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def exchanged(x: jax.Array, mesh: Mesh) -> jax.Array:
    """What both towers made, given to both; of its gradient each gets its own half.

    It says where `x` lies before as well as after, and has a rule for the way back: left to itself
    XLA sends the masks of dropout and ReLU, and sums gradients whole in both towers.

    Args:
        x: (N, ...), whose last axis lies over the towers.
        mesh: of the network.
    """
    return _exchanged(x, mesh)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _exchanged(x: jax.Array, mesh: Mesh) -> jax.Array:
    x = constrain(x, mesh, _of_own_tower(x, mesh))
    return constrain(x, mesh, PartitionSpec("data", *(None,) * (x.ndim - 1)))


def _of_own_tower(x: jax.Array, mesh: Mesh) -> PartitionSpec:
    """Where (N, ...) lies when each tower has its own of the last axis, if that divides."""
    own = spec_of(x.shape, mesh.shape["tower"])
    return PartitionSpec("data", *own[1:])


def _exchanged_forward(x: jax.Array, mesh: Mesh) -> tuple[jax.Array, None]:
    return _exchanged(x, mesh), None


def _exchanged_backward(mesh: Mesh, saved: None, gradient: jax.Array) -> tuple[jax.Array]:
    del saved
    return (constrain(gradient, mesh, _of_own_tower(gradient, mesh)),)


_exchanged.defvjp(_exchanged_forward, _exchanged_backward)


def describe_mesh(mesh: Mesh) -> str:
    """Returns a line for people: '1 x 2 (data x tower) on 2 cpu devices'."""
    count = math.prod(mesh.devices.shape)
    shape = " x ".join(str(size) for size in mesh.devices.shape)
    platform = mesh.devices.flat[0].platform
    return f"{shape} (data x tower) on {count} {platform} device{'s' * (count > 1)}"
