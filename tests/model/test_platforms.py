"""The network in each platform's forms, and in bfloat16: values and derivatives as the plain one's.

Every error is the largest absolute difference over the largest absolute value, tensor by tensor.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
from jax.sharding import NamedSharding

from alexnet_jax.model import AlexNet, Network, cpu, gpu, make_mesh, operators, tpu
from alexnet_jax.model import alexnet as module
from alexnet_jax.model.mesh import IMAGES, shardings
from alexnet_jax.model.plain import Plain

BATCH = 8
SMALL = fixtures.small_network()
PLATFORMS = {"cpu": cpu.PLATFORM, "gpu": gpu.PLATFORM, "tpu": tpu.PLATFORM}


def everything(
    monkeypatch: pytest.MonkeyPatch,
    platform: Plain,
    network: Network,
    mesh: tuple[int, int],
    dtype: Any,
) -> dict[str, Any]:
    """Loss, logits and gradients of a training step in a platform's forms, as float64."""
    monkeypatch.setattr(module, "platform_of", lambda mesh: platform)
    model = AlexNet(network, make_mesh(*mesh), dtype)
    with jax.enable_x64(dtype == jnp.float64):
        kept = jnp.float64 if dtype == jnp.float64 else jnp.float32
        params = jax.tree.map(kept, fixtures.random_params(network))
        params = jax.device_put(params, shardings(params, model.mesh))
        batch = (
            kept(fixtures.random_images(BATCH, 96)),
            fixtures.random_labels(BATCH, 12),
            fixtures.random_masks(network, BATCH),
        )
        images, labels, masks = jax.device_put(batch, NamedSharding(model.mesh, IMAGES))
        (loss, logits), gradients = jax.jit(fixtures.gradient_function(model))(
            params, images, labels, masks
        )
        assert all(a.dtype == kept for a in jax.tree.leaves((loss, logits, gradients)))
    found = {"loss": loss, "logits": logits, "gradients": gradients}
    return jax.tree.map(np.float64, jax.device_get(found))


@pytest.mark.parametrize("mesh", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_a_step_in_its_forms(
    monkeypatch: pytest.MonkeyPatch, platform: str, mesh: tuple[int, int]
) -> None:
    expected = everything(monkeypatch, Plain(), SMALL, (1, 1), jnp.float64)
    found = everything(monkeypatch, PLATFORMS[platform], SMALL, mesh, jnp.float64)
    assert fixtures.difference(found, expected) < 1e-10


@pytest.mark.parametrize(
    "changes",
    [
        {"lrn_across_towers": True},
        {"conv2": dataclasses.replace(SMALL.conv2, after="norm activation within_map_norm pool")},
        {"activation": "tanh", "conv1": dataclasses.replace(SMALL.conv1, after="activation")},
        {"conv4": fixtures.dropout_over_conv4(SMALL).conv4},
    ],
    ids=["across", "within maps", "tanh", "dropout over conv4"],
)
def test_networks_that_a_gpu_computes_tower_by_tower(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    network = fixtures.small_network(**changes)
    expected, found = (
        everything(monkeypatch, platform, network, (1, 1), jnp.float64)
        for platform in (Plain(), gpu.PLATFORM)
    )
    assert fixtures.difference(found, expected) < 1e-10


@pytest.mark.parametrize(
    ("platform", "mesh"),
    [("cpu", (1, 1)), ("cpu", (2, 1)), ("cpu", (1, 2)), ("gpu", (1, 1)), ("tpu", (1, 1))],
)
def test_a_step_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, platform: str, mesh: tuple[int, int]
) -> None:
    """Every gradient points where float32's does; logits, loss and gradients are float32."""
    expected = everything(monkeypatch, Plain(), SMALL, (1, 1), jnp.float32)
    found = everything(monkeypatch, PLATFORMS[platform], SMALL, mesh, jnp.bfloat16)
    assert 1e-6 < fixtures.difference(found["logits"], expected["logits"]) < 0.05
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.01)
    rounded = jnp.asarray(found["logits"], jnp.bfloat16)
    assert np.mean(np.float64(rounded) == found["logits"]) < 0.1, "the logits were bfloat16"
    pairs = (jax.tree.leaves_with_path(tree["gradients"]) for tree in (found, expected))
    for (path, ours), (_, theirs) in zip(*pairs, strict=True):
        cosine = np.sum(ours * theirs) / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert cosine > 0.99, jax.tree_util.keystr(path)


def test_gradients_are_summed_in_float32() -> None:
    """Of bfloat16 ones: in their own type a sum ends at 256."""
    ones = jnp.ones((3, 1001, 1), jnp.bfloat16)
    bias = jax.grad(lambda bias: operators.add_bias(ones, bias).sum().astype(jnp.float32))
    assert bias(jnp.zeros(1)) == 3003
    kernel = jax.grad(lambda kernel: operators.dense(ones[0], kernel).sum())
    assert kernel(jnp.zeros((1, 1))) == 1001
