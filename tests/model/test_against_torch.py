"""The network and its training against a second implementation, in PyTorch.

Every error is the largest absolute difference over the largest absolute value, tensor by tensor.
"""

import dataclasses
from types import ModuleType
from typing import Any

import jax
import network_fixtures as fixtures
import numpy as np
import optax
import pytest
from network_fixtures import FullSize, gradient_function

from alexnet_jax.model import AlexNet, Network, make_mesh
from alexnet_jax.training import update_rule

EXACT = 1e-8  # in float64


def released(network: Network) -> Network:
    """The order of layers-145.cfg, as the preset 'source' has it."""
    return dataclasses.replace(
        network,
        conv1=dataclasses.replace(network.conv1, after="norm pool activation"),
        conv2=dataclasses.replace(network.conv2, after="activation norm within_map_norm pool"),
        conv5=dataclasses.replace(network.conv5, after="pool activation"),
    )


READINGS: dict[str, dict[str, Any]] = {
    "printed": {},
    "released": {"released": True},
    "fc6 apart": {"apart": ("fc6",)},
    "dropout over conv4": {"over_conv4": True},
    "never talking": {"apart": ("conv3", "fc6", "fc7")},
}


@pytest.mark.parametrize("order", READINGS)
def test_small_network_in_float64(reference: ModuleType, order: str) -> None:
    """Logits, loss and every gradient in training, and the logits at test."""
    reading = READINGS[order]
    network = fixtures.apart(fixtures.small_network(), *reading.get("apart", ()))
    if order == "released":
        network = released(network)
    if order == "dropout over conv4":
        network = fixtures.dropout_over_conv4(network)
    params = fixtures.random_params(network)
    images, labels = fixtures.random_images(3, 96), fixtures.random_labels(3, 12)
    masks = fixtures.random_masks(network, 3)
    with jax.enable_x64(True):
        model = AlexNet(network, make_mesh(1, 1))
        (loss, logits), gradients = jax.jit(gradient_function(model))(params, images, labels, masks)
        at_test = jax.jit(model.apply)({"params": params}, images)
    assert logits.dtype == np.float64

    tensors = reference.tensors(params)
    expected_logits, expected_loss, expected_gradients = reference.loss_and_gradients(
        tensors, images, labels, masks, **reading
    )
    expected_at_test = reference.forward(tensors, images, **reading)
    assert fixtures.difference(logits, expected_logits.detach()) < EXACT
    assert fixtures.difference(at_test, expected_at_test.detach()) < EXACT
    assert fixtures.difference(loss, expected_loss.detach()) < EXACT
    expected_slopes = reference.numbers(expected_gradients)
    assert fixtures.difference(gradients, expected_slopes) < EXACT
    assert min(np.abs(g).max() for g in jax.tree.leaves(expected_slopes)) > 1e-5, "nothing compared"


def test_twenty_training_steps_in_float64(reference: ModuleType) -> None:
    """The update rule with decay, a rate of the biases' own, and both rates dropping on the way."""
    steps = 20
    network = fixtures.small_network()
    config = fixtures.small_config("optim.drops=(0.5,)", "optim.bias_drops=(0.75,)")
    rates = [(0.01 if s < 10 else 0.001, 0.02 if s < 15 else 0.002) for s in range(steps)]
    params = fixtures.random_params(network)
    batches = [
        (
            fixtures.random_images(4, 96, seed),
            fixtures.random_labels(4, 12, seed),
            fixtures.random_masks(network, 4, seed),
        )
        for seed in range(steps)
    ]
    with jax.enable_x64(True):
        gradient = gradient_function(AlexNet(network, make_mesh(1, 1)))
        optimizer = update_rule.update_rule(config.optim, steps)

        @jax.jit
        def step(params: Any, opt_state: Any, *batch: Any) -> Any:
            (loss, _), gradients = gradient(params, *batch)
            updates, opt_state = optimizer.update(
                gradients, opt_state, params, plateau_factor=np.float32(1)
            )
            return optax.apply_updates(params, updates), opt_state, loss

        found = jax.tree.map(jax.numpy.asarray, params)
        opt_state = optimizer.init(found)
        losses = []
        for batch in batches:
            found, opt_state, loss = step(found, opt_state, *batch)
            losses.append(float(loss))

    expected, expected_losses = reference.train(params, batches, rates)
    assert fixtures.difference(np.array(losses), np.array(expected_losses)) < EXACT
    assert fixtures.difference(found, expected) < EXACT
    moved = [fixtures.difference(expected[name], params[name]) for name in params]
    assert min(moved) > 1e-3, "nothing was learned, so nothing compared"


def test_full_network(reference: ModuleType, full_size: FullSize) -> None:
    """The 60,965,224 parameters of 2012 with their initial values, pixels at 0..255 minus mean."""
    tensors = reference.tensors(full_size.params)
    logits, loss, gradients = reference.loss_and_gradients(
        tensors, full_size.images, full_size.labels, full_size.masks
    )
    assert fixtures.difference(full_size.logits, logits.detach()) < EXACT
    assert fixtures.difference(full_size.loss, loss.detach()) < EXACT
    assert fixtures.difference(full_size.gradients, reference.numbers(gradients)) < EXACT


def test_full_network_in_float32(full_size: FullSize) -> None:
    """Logits do not jump where a ReLU or a pool changes its mind, as gradients do."""
    model = AlexNet(full_size.network, make_mesh(1, 1))
    narrow = jax.tree.map(
        lambda array: np.asarray(array, np.float32), (full_size.params, full_size.images)
    )
    params, images = narrow
    logits = jax.jit(model.apply)({"params": params}, images, full_size.masks)
    assert logits.dtype == np.float32
    assert fixtures.difference(logits, full_size.logits) < 1e-4
