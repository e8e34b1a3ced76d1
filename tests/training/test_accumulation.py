"""A step in parts is the step at once."""

from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import optax
import pytest
from jax.sharding import NamedSharding

from alexnet_jax.errors import ConfigError
from alexnet_jax.model import AlexNet, make_mesh
from alexnet_jax.model.mesh import IMAGES, shardings
from alexnet_jax.run.parts import check_batch
from alexnet_jax.training.step import accumulated

BATCH = 8


@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (1, 2)])
def test_gradients_loss_and_logits(mesh: tuple[int, int]) -> None:
    """In four parts of two, on every mesh, in float64."""
    network = fixtures.small_network()
    model = AlexNet(network, make_mesh(*mesh))

    def loss(params: Any, batch_stats: Any, examples: Any) -> Any:
        images, labels, masks = examples
        logits = model.apply({"params": params}, images, masks)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, batch_stats)

    gradient = jax.value_and_grad(loss, has_aux=True)
    in_parts = jax.jit(accumulated(gradient, 4, model.mesh))
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, fixtures.random_params(network))
        params = jax.device_put(params, shardings(params, model.mesh))
        examples = (
            fixtures.random_images(BATCH, 96),
            fixtures.random_labels(BATCH, 12),
            fixtures.random_masks(network, BATCH),
        )
        examples = jax.device_put(examples, NamedSharding(model.mesh, IMAGES))
        expected, found = (jax.jit(gradient)(params, {}, examples), in_parts(params, {}, examples))
        program = in_parts.lower(params, {}, examples).as_text()
    assert fixtures.difference(jax.device_get(found), jax.device_get(expected)) < 1e-9
    # On a CPU XLA's convolutions in a loop take seven times as long, and on two devices can be
    # wrong (model/cpu/convolution.py).
    loops = jax.default_backend() != "cpu"
    assert ("stablehlo.while" in program) == loops and "stablehlo.convolution" in program


def test_a_batch_that_does_not_come_out_even() -> None:
    config = fixtures.small_config("batch_size=24", "accumulate=5")
    with pytest.raises(ConfigError, match=r"batch_size=24 .* in 5 parts .* multiple of 10"):
        check_batch(config, make_mesh(2, 1))
    check_batch(fixtures.small_config("batch_size=24", "accumulate=3"), make_mesh(2, 1))
