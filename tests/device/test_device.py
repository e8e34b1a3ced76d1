"""What a GPU or a TPU computes, against float64 NumPy and against the CPU beside it.

    pytest -m device

runs them on the first device that jax finds; on a machine without an accelerator that is a CPU,
which has to pass as well.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.model import AlexNet, make_mesh, operators
from alexnet_jax.model.mesh import IMAGES
from alexnet_jax.training import update_rule
from alexnet_jax.training.step import State, initial_state, make_train_step

pytestmark = pytest.mark.device
FEW = 4  # images


def responses(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers as large as those of a layer at its first steps."""
    return np.random.default_rng(seed).normal(0, 10, shape)


def on(device: jax.Device, array: np.ndarray) -> jax.Array:
    """Float32 on a device."""
    return jax.device_put(np.asarray(array, np.float32), device)


@pytest.mark.parametrize("size, channels", [(27, 96), (13, 256)])
def test_lrn(size: int, channels: int) -> None:
    """Values and derivative by the formula of section 3.3, channel by channel, in both towers."""
    x = responses(FEW, size, size, channels)
    slopes = responses(FEW, size, size, channels, seed=1)
    squares = np.zeros_like(x)
    for tower in np.split(np.arange(channels), 2):
        for channel in tower:
            near = tower[abs(tower - channel) <= 2]
            squares[..., channel] = (x[..., near] ** 2).sum(-1)
    denominators = 2 + 1e-4 * squares
    expected = x * denominators**-0.75
    passed = slopes * x * denominators**-1.75
    gradient = slopes * denominators**-0.75
    for tower in np.split(np.arange(channels), 2):
        for channel in tower:
            near = tower[abs(tower - channel) <= 2]
            gradient[..., channel] -= 2e-4 * 0.75 * x[..., channel] * passed[..., near].sum(-1)

    def lrn(x: jax.Array) -> jax.Array:
        return operators.local_response_norm(x, size=5, k=2, alpha=1e-4, beta=0.75, towers=2)

    device = jax.devices()[0]
    found, pullback = jax.vjp(jax.jit(lrn), on(device, x))
    assert fixtures.difference(found, expected) < 1e-5
    assert fixtures.difference(pullback(on(device, slopes))[0], gradient) < 1e-5


def test_max_pool() -> None:
    """Windows of 3 every 2 pixels; the gradient goes to the largest of each."""
    x = responses(FEW, 13, 13, 8)
    expected, gradient = np.zeros((FEW, 6, 6, 8)), np.zeros_like(x)
    for image, row, column, channel in np.ndindex(expected.shape):
        window = x[image, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3, channel]
        place = np.unravel_index(window.argmax(), window.shape)
        expected[image, row, column, channel] = window[place]
        gradient[image, 2 * row + place[0], 2 * column + place[1], channel] += 1
    pool = jax.jit(lambda x: operators.max_pool(x, 3, 2))
    found, pullback = jax.vjp(pool, on(jax.devices()[0], x))
    assert fixtures.difference(found, expected) < 1e-6
    assert fixtures.difference(pullback(jnp.ones_like(found))[0], gradient) < 1e-6


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(groups: int) -> None:
    """Of each group by itself, with float32 products."""
    x, kernel = responses(FEW, 9, 9, 8), responses(3, 3, 8 // groups, 6, seed=1)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    parts = zip(np.split(windows, groups, axis=3), np.split(kernel, groups, axis=3), strict=True)
    expected = np.concatenate([np.einsum("nhwcij,ijco->nhwo", *part) for part in parts], axis=3)
    with jax.default_matmul_precision("float32"):
        device = jax.devices()[0]
        convolve = jax.jit(lambda x, k: operators.convolution(x, k, 1, (1, 1), groups))
        found = convolve(on(device, x), on(device, kernel))
    assert fixtures.difference(found, expected) < 1e-5


class Step(NamedTuple):
    """One training step on one device."""

    before: State  # which it consumed
    after: State
    move: Any  # of every parameter, NumPy


def step_on(device: jax.Device, dtype: Any = jnp.float32) -> Step:
    """A step of a small network, whose products are of float32 and not of TF32."""
    config = fixtures.small_config("batch_size=4", "data.lighting=none", "precision=highest")
    mesh = make_mesh(1, 1, devices=[device])
    model = AlexNet(fixtures.small_network(), mesh, dtype)
    optimizer = update_rule.update_rule(config.optim, 10)
    mean = np.full((104, 104, 3), 120, np.float32)
    images = np.clip(fixtures.random_images(FEW, 96) + 120, 0, 255).astype(np.uint8)
    batch = {"image": images, "label": fixtures.random_labels(FEW, 12).astype(np.int32)}
    placed = jax.device_put(batch, jax.NamedSharding(mesh, IMAGES))
    before = initial_state(model, optimizer, 0)
    start = jax.tree.map(np.array, before.params)  # a view would keep the buffers alive
    step = make_train_step(model, optimizer, mean, config, 10)
    after = step(before, placed)
    return Step(before, after, jax.tree.map(np.subtract, jax.device_get(after.params), start))


def test_a_step_is_that_of_a_cpu() -> None:
    """The loss and every parameter's move; random numbers are the same on every platform."""
    expected, found = step_on(jax.devices("cpu")[0]), step_on(jax.devices()[0])
    losses = found.after.running["loss"], expected.after.running["loss"]
    assert fixtures.difference(*map(np.asarray, losses)) < 1e-4
    assert fixtures.difference(found.move, expected.move) < 5e-3  # a ReLU may change its mind


def test_bfloat16() -> None:
    """A step in bfloat16 moves every layer's kernels in the direction of float32's."""
    wide, narrow = (step_on(jax.devices()[0], dtype) for dtype in (jnp.float32, jnp.bfloat16))
    for name in wide.move:
        a, b = (np.ravel(move[name]["kernel"]).astype(float) for move in (wide.move, narrow.move))
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        assert 0.97 < cosine < 1 - 1e-9, name


def test_the_state_is_donated() -> None:
    """A step works in place: what it was given is gone, so that memory holds one state."""
    step = step_on(jax.devices()[0])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(step.before.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(step.after.params))
