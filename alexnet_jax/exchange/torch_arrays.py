"""The network's parameters as a state dict of PyTorch, and back.

Kernels are transposed, and nothing is folded into them: every number keeps its bits, both ways.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.exchange.from_torch import MEAN_IMAGE
from alexnet_jax.exchange.torch_modules import places
from alexnet_jax.exchange.weights import numbers
from alexnet_jax.model.network import Network

BATCH_NORM = {
    "scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var",
}  # fmt: skip
KINDS = {"kernel": "weight", "bias": "bias", **BATCH_NORM}
COUNTED = "num_batches_tracked"  # beside PyTorch's averages, which do not use it

Arrays = dict[str, np.ndarray]


class Place(NamedTuple):
    """Where an array is: `variables[part][layer][kind]` here, `name` there."""

    part: str
    layer: str
    kind: str
    name: str


def _places(network: Network, variables: Mapping[str, Any]) -> Iterator[Place]:
    where = places(network)
    for part, layers in variables.items():
        for layer, kinds in layers.items():
            for kind in kinds:
                module = where[f"{layer}/norm" if kind in BATCH_NORM else layer]
                yield Place(part, layer, kind, f"{module}.{KINDS[kind]}")


def state_dict(network: Network, variables: Mapping[str, Any], mean_image: np.ndarray) -> Arrays:
    """The state dict of the module that `torch_source` writes, in float32.

    Args:
        network: what the layers are.
        variables: `params` and `batch_stats`.
        mean_image: (S, S, 3).
    """
    found = {MEAN_IMAGE: np.ascontiguousarray(mean_image.transpose(2, 0, 1), np.float32)}
    for part, layer, kind, name in _places(network, variables):
        array = _to_torch(network, layer, np.asarray(variables[part][layer][kind]))
        found[name] = np.ascontiguousarray(array, np.float32)
        if kind == "mean":
            found[f"{name.rpartition('.')[0]}.{COUNTED}"] = np.zeros((), np.int64)
    return found


def variables_of(
    network: Network, shapes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """`params` and `batch_stats`, of a state dict.

    Args:
        network: what the layers are.
        shapes: of them, see `AlexNet.shapes`.
        arrays: the state dict, without its mean image.

    Raises:
        UserError: a tensor is missing, is one too many, has another shape, or holds no numbers.
    """
    left = {name: array for name, array in arrays.items() if not name.endswith(f".{COUNTED}")}
    found: dict[str, Any] = {part: {layer: {} for layer in shapes[part]} for part in shapes}
    for part, layer, kind, name in _places(network, shapes):
        if name not in left:
            raise UserError(f"has no tensor {name}, as the network in its config.json has")
        array, shape = numbers(name, left.pop(name)), shapes[part][layer][kind].shape
        expected = _to_torch(network, layer, np.broadcast_to(np.float32(0), shape)).shape
        if array.shape != expected:
            raise UserError(f"{name} has shape {array.shape}, expected {expected}")
        array = _from_torch(network, layer, array).reshape(shape)
        found[part][layer][kind] = np.ascontiguousarray(array, np.float32)
    if left:
        raise UserError(f"has a tensor {min(left)}, which the network in its config.json has not")
    return found


def _to_torch(network: Network, layer: str, array: np.ndarray) -> np.ndarray:
    """HWIO to OIHW, IO to OI; where a layer sees maps, its inputs from HWC to CHW."""
    if array.ndim == 2 and layer == _first_dense(network):
        side = network.final_maps()
        of_maps = array.reshape(side, side, -1, array.shape[1])
        return of_maps.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _from_torch(network: Network, layer: str, array: np.ndarray) -> np.ndarray:
    """The way back; of a layer that sees maps in their shape."""
    if array.ndim == 2 and layer == _first_dense(network):
        side = network.final_maps()
        array = array.reshape(len(array), -1, side, side)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _first_dense(network: Network) -> str:
    return next(iter([*network.hidden(), "fc8"]))
