"""Starts as a run does, and says so when the first training step is dispatched.

    python -m experiments.step.first_step CONFIG BATCH [FIELD=VALUE ...]

Everything but the images: they are zeros.
"""

import sys

import jax
import numpy as np
from jax.sharding import NamedSharding

from alexnet_jax import build, optim
from alexnet_jax import config as config_lib
from alexnet_jax.model import AlexNet, make_mesh, towers
from alexnet_jax.step import initial_state, make_train_step


def main(name: str, batch_size: str, *assignments: str) -> None:
    """Prints one word and ends when the step has been taken."""
    config = config_lib.override(config_lib.load(name), assignments)
    build.start_devices(config)
    mesh = make_mesh(config.mesh.data, config.mesh.tower)
    model = AlexNet(config_lib.network(config), mesh)
    optimizer = optim.update_rule(config.optim, 1)
    size, count = model.network.input_size, int(batch_size)
    batch = {
        "image": np.zeros((count, size, size, 3), np.uint8),
        "label": np.zeros(count, np.int32),
    }
    mean_image = np.zeros((size, size, 3), np.float32)
    state = initial_state(model, optimizer, config.seed)
    step = make_train_step(model, optimizer, mean_image, config, 1)
    state = step(state, jax.device_put(batch, NamedSharding(mesh, towers.IMAGES)))
    print("dispatched", flush=True)
    jax.block_until_ready(state)


if __name__ == "__main__":
    main(*sys.argv[1:])
