"""cuda-convnet's networks for CIFAR-10, against PyTorch written from their files.

The witness rounds its pools up itself (`ceil_mode`), unfolds what locally connected layers see, and
shares no code with `alexnet_jax`; only the layout of the parameters is the same.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import optax
import pytest
from network_fixtures import gradient_function

from alexnet_jax import settings
from alexnet_jax.configs import cifar10
from alexnet_jax.model import AlexNet, Conv, Network, make_mesh, operators
from alexnet_jax.training.update_rule import update_rule

EXACT = 1e-9
BATCH = 3
PARAMETERS = {  # as counted from the files
    "80sec": 145_578,
    "19pct": 89_578,
    "18pct": 89_578,
    "conv-local-13pct": 1_116_490,
    "conv-local-11pct": 2_112_970,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_maps(name: str) -> None:
    """32-16-8-4, or 24-12-6."""
    network = settings.network(settings.load(f"cifar10:{name}"))
    shapes = AlexNet(network).shapes()["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]
    maps = [side for _, side in network.sides().values()]
    assert maps == ([12, 6, 6, 6] if "local" in name else [16, 8, 4])


def forward(name: str, params: Any, images: Any, torch: ModuleType) -> Any:
    """The logits, from the numbers of example-layers/layers-NAME.cfg."""
    F = torch.nn.functional

    def conv(x: Any, layer: str) -> Any:
        kernel = params[layer]["kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, params[layer]["bias"], padding=2)

    def local(x: Any, layer: str) -> Any:
        kernel, side = params[layer]["kernel"], x.shape[-1]
        seen = F.unfold(x, 3, padding=1).unflatten(2, (side, side))
        found = torch.einsum("nphw,hwpo->nhwo", seen, kernel) + params[layer]["bias"]
        return found.permute(0, 3, 1, 2)

    def max_pool(x: Any) -> Any:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def average(x: Any) -> Any:
        return F.avg_pool2d(x, 3, 2, ceil_mode=True)

    def across_maps(x: Any) -> Any:
        near = F.pad(x.square(), (0, 0, 0, 0, 4, 4)).unfold(1, 9, 1).sum(-1)
        return x / (1 + 0.001 / 9 * near) ** 0.75

    def within_map(x: Any) -> Any:
        near = F.avg_pool2d(x.square(), 3, 1, 1, divisor_override=1)
        return x / (1 + 5e-5 / 9 * near) ** 0.75

    def nothing(x: Any) -> Any:
        return x

    x = images.permute(0, 3, 1, 2)
    if "local" in name:
        norm = across_maps if "11" in name else nothing
        x = norm(max_pool(conv(x, "conv1").relu()))
        x = max_pool(norm(conv(x, "conv2").relu()))
        x = local(local(x, "conv3").relu(), "conv4").relu()
    else:
        norm = within_map if name == "18pct" else nothing
        x = norm(max_pool(conv(x, "conv1")).relu())
        x = norm(average(conv(x, "conv2").relu()))
        x = average(conv(x, "conv3").relu())
    x = x.permute(0, 2, 3, 1).flatten(1)
    if "fc6" in params:
        x = (x @ params["fc6"]["kernel"] + params["fc6"]["bias"]).relu()
    return x @ params["fc8"]["kernel"] + params["fc8"]["bias"]


def parameters(network: Network) -> Any:
    """Of a size at which every layer says something, float64."""
    params = fixtures.random_params(network)
    for layer in params.values():
        fan_in = np.prod(layer["kernel"].shape[-3:-1]) if layer["bias"].ndim == 3 else None
        fan_in = fan_in or np.prod(layer["kernel"].shape[:-1])
        layer["kernel"] *= np.sqrt(2 / fan_in) / layer["kernel"].std()
    return params


@pytest.mark.parametrize("name", PARAMETERS)
def test_logits_and_gradients_are_those_of_the_files(name: str, reference: ModuleType) -> None:
    """In float64."""
    torch = reference.torch
    network = settings.network(settings.load(f"cifar10:{name}"))
    params = parameters(network)
    images = fixtures.random_images(BATCH, network.input_size)
    labels = fixtures.random_labels(BATCH, 10)
    with jax.enable_x64(True):
        model = AlexNet(network, make_mesh(1, 1))
        (_, logits), gradients = jax.jit(gradient_function(model))(params, images, labels, {})
    leaves = jax.tree.map(lambda a: torch.tensor(a).requires_grad_(), params)
    expected = forward(name, leaves, torch.tensor(images), torch)
    torch.nn.functional.cross_entropy(expected, torch.tensor(labels)).backward()
    assert fixtures.difference(logits, expected.detach()) < EXACT
    slopes = jax.tree.map(lambda leaf: leaf.grad.numpy(), leaves)
    assert fixtures.difference(gradients, slopes) < EXACT
    assert min(np.abs(slope).max() for slope in jax.tree.leaves(slopes)) > 1e-6


@functools.cache
def of_two_towers(data: int, tower: int) -> Any:
    """Loss, logits and gradients of a network with locally connected layers, of both towers and of
    one, and average pools."""
    network = fixtures.small_network(
        conv2=Conv(
            16, 5, 1, (2, 2), std=0.05, after="activation average_pool", pool_padding=(1, 0)
        ),
        conv3=Conv(24, 3, 1, (1, 1), communicates=True, std=0.05, local=True),
        conv4=Conv(24, 3, 1, (1, 1), std=0.05, local=True),
    )
    with jax.enable_x64(True):
        model = AlexNet(network, make_mesh(data, tower))
        params = fixtures.random_params(network)
        images, labels = fixtures.random_images(4, 96), fixtures.random_labels(4, 12)
        return jax.device_get(jax.jit(gradient_function(model))(params, images, labels, {}))


@pytest.mark.parametrize("mesh", [(1, 2), (2, 1), (2, 2)])
def test_local_layers_compute_the_same_on_every_mesh(mesh: tuple[int, int]) -> None:
    """Each tower with kernels of its own at every place."""
    found, expected = of_two_towers(*mesh), of_two_towers(1, 1)
    assert expected[1]["conv4"]["kernel"].shape == (5, 5, 12 * 9, 24)
    assert fixtures.difference(found, expected) < 1e-8


@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [(3, 2, (0, 1)), (2, 2, (0, 0)), (3, 1, (1, 1)), (4, 3, (2, 1))],
)
def test_an_average_is_of_the_pixels_that_are_there(
    window: int, stride: int, padding: tuple[int, int]
) -> None:
    """Pixel by pixel."""
    x = np.random.default_rng(0).normal(size=(2, 8, 9, 3))
    with jax.enable_x64(True):
        found = np.asarray(operators.average_pool(jnp.asarray(x), window, stride, padding))
    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            top, left = row * stride - padding[0], column * stride - padding[0]
            seen = x[:, max(top, 0) : top + window, max(left, 0) : left + window]
            np.testing.assert_allclose(found[:, row, column], seen.mean((1, 2)), rtol=1e-12)


def test_every_layer_decays_by_its_own() -> None:
    """19pct: 0.004 of the convolutions, 3 of fc8, nothing of biases; by hand, without gradients."""
    config = settings.load("cifar10:19pct")
    network = settings.network(config)
    params = jax.tree.map(np.float32, fixtures.random_params(network))
    rule = update_rule(config.optim, 100, network.decays())
    still = jax.tree.map(np.zeros_like, params)
    updates, _ = rule.update(still, rule.init(params), params)
    moved = optax.apply_updates(params, updates)
    for layer, decay in (("conv1", 0.004), ("conv2", 0.004), ("conv3", 0.004), ("fc8", 3.0)):
        expected = params[layer]["kernel"] * (1 - 0.001 * decay)
        np.testing.assert_allclose(moved[layer]["kernel"], expected, rtol=1e-5)
        np.testing.assert_array_equal(moved[layer]["bias"], params[layer]["bias"])


def test_an_unknown_network_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(settings.ConfigError, match="one of 80sec, 19pct"):
        settings.load("cifar10:81sec")
    names: dict[str, Callable[..., None]] = cifar10.NETWORKS
    assert list(names) == list(PARAMETERS)
