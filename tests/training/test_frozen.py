"""Frozen layers: nothing of them changes, in a step and in a run."""

import shutil
from pathlib import Path
from typing import Any

import glue_reference
import jax
import network_fixtures as networks
import numpy as np
import pytest
import run_fixtures as fixtures
from run_fixtures import Tiny

from alexnet_jax import settings
from alexnet_jax.model import AlexNet, Conv, make_mesh
from alexnet_jax.model.mesh import shardings
from alexnet_jax.training.step import initial_state, make_train_step
from alexnet_jax.training.update_rule import Plateau, update_rule

Tree = Any
BATCH, CROP = 8, glue_reference.CROP
NORMED = {
    "norm": "batch_norm",
    "conv1": Conv(4, 5, 3, std=0.02, after="activation norm"),
    "conv2": Conv(4, 3, 1, (1, 1), std=0.2, after="activation norm"),
}


def bits(tree: Tree) -> Tree:
    """The bytes of every array."""
    return jax.tree.map(lambda array: np.asarray(array).tobytes(), tree)


def same(one: Tree, other: Tree) -> dict[str, dict[str, bool]]:
    """Which arrays of which layers are the same, to the bit."""
    return jax.tree.map(lambda a, b: a == b, bits(one), bits(other))


@pytest.mark.parametrize("mesh_shape", [(1, 1), (1, 2)])
def test_two_steps_change_no_bit_of_them(mesh_shape: tuple[int, int]) -> None:
    """Weights, biases, scale and shift of batch norm and what it averages, not even the sign of a
    zero; all else moves, and has momentum."""
    network = glue_reference.network(**NORMED)
    frozen = ("conv1", "fc6")
    zeros = [f"optim.rates.{layer}=0" for layer in frozen]
    config = networks.small_config(f"batch_size={BATCH}", *zeros, network=network)
    model = AlexNet(network, make_mesh(*mesh_shape), frozen=frozen)
    rule = update_rule(config.optim, 10)
    state = jax.eval_shape(lambda: initial_state(model, rule, 0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    rng = np.random.default_rng(0)
    params = jax.tree.map(np.float32, networks.random_params(network))
    for layer in params.values():
        layer["kernel"][..., 0] = -0.0
    averages = jax.tree.map(lambda x: np.float32(rng.uniform(1, 2, x.shape)), state.batch_stats)
    own = {"seed": np.uint32(0), "plateau": Plateau.start(), "bad_step": np.int32(-1)}
    state = state.replace(params=params, batch_stats=averages, **own)
    state = jax.device_put(state, shardings(state, model.mesh))
    before = jax.device_get(state.model())
    step = make_train_step(model, rule, np.zeros((CROP, CROP, 3), np.float32), config, 10)
    for _ in range(2):
        image = rng.integers(0, 256, (BATCH, CROP, CROP, 3), np.uint8)
        state = step(state, {"image": image, "label": np.arange(BATCH, dtype=np.int32) % 7})
    assert int(state.bad_step) < 0
    for part, after in jax.device_get(state.model()).items():
        for layer, kinds in same(after, before[part]).items():
            assert set(kinds.values()) == {layer in frozen}, (part, layer)
    momentum = state.trees()["training"]["momentum"]
    assert momentum.keys() == {"conv2", "fc8"}
    assert all(np.any(array != 0) for kinds in momentum.values() for array in kinds.values())


def test_the_batch_norm_of_a_frozen_layer_is_that_of_the_test() -> None:
    """Without dropout, and with all of them frozen, training and test say the same."""
    network = glue_reference.network(**NORMED, dropout=0.0)
    images = networks.random_images(BATCH, CROP).astype(np.float32)
    shapes = AlexNet(network).shapes()
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: np.float32(rng.uniform(0.1, 0.2, x.shape)), shapes)

    @jax.jit
    def said(drawn: Tree) -> Tree:
        still, moving = AlexNet(network, frozen=("conv1", "conv2")), AlexNet(network)
        trained = (m.apply(drawn, images, {}, mutable=["batch_stats"]) for m in (still, moving))
        return still.apply(drawn, images), *trained

    tested, (logits, updated), (other, moved) = said(drawn)
    assert networks.difference(logits, tested) < 1e-6
    assert networks.difference(other, tested) > 1e-3
    assert jax.tree.all(same(updated["batch_stats"], drawn["batch_stats"]))
    assert not any(jax.tree.leaves(same(moved["batch_stats"], drawn["batch_stats"])))


def test_a_run_goes_on_with_them_as_an_unbroken_one(tiny: Tiny, tmp_path: Path) -> None:
    """From the checkpoint in its middle, bit for bit; momentum of frozen layers is in none."""
    flags = ("--config.epochs=2", "--config.optim.rates.conv1=0", "--config.optim.rates.fc6=0.1")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    tiny.train(unbroken, *flags)
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "checkpoints/16")
    assert "resuming from the checkpoint of step 8" in tiny.train(broken, *flags)
    fixtures.assert_same_end(broken, unbroken)
    half, end = (fixtures.arrays(unbroken / f"checkpoints/{step}") for step in (8, 16))
    for name, array in half.items():
        layer = name.split(".")[-2] if "params" in name or "momentum" in name else ""
        if layer:
            assert (array.tobytes() == end[name].tobytes()) == (layer == "conv1"), name
    assert not any("momentum" in name and "conv1" in name for name in half)
    assert any("momentum" in name and "fc6" in name for name in half)


def test_a_network_of_which_nothing_learns() -> None:
    """A layer that is not there does not count."""
    zeros = [f"optim.rates.{layer}=0" for layer in ("conv1", "conv2", "fc6", "fc7", "fc8")]
    config = networks.small_config(*zeros, network=glue_reference.network())
    with pytest.raises(
        settings.ConfigError, match=r"rates: all layers are frozen \(conv1, fc6, fc8"
    ):
        settings.check(config)
    settings.check(networks.small_config(*zeros))
