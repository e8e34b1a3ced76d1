"""Starts as a run does, and says so when the first training step is dispatched.

    python -m experiments.step.first_step [--config=imagenet] [--batch=128] [--set=FIELD=VALUE]

Everything but the images: they are zeros.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from alexnet_jax.model import AlexNet, make_mesh
from alexnet_jax.model.mesh import IMAGES
from alexnet_jax.run.devices import start_devices
from alexnet_jax.settings import load, network, override
from alexnet_jax.training.step import initial_state, make_train_step
from alexnet_jax.training.update_rule import update_rule
from experiments.shared.command import Flags, add_fields, fields, number, start

DISPATCHED = "dispatched"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one word and ends when the step has been taken."""
    flags = Flags("step.first_step", __doc__, results=False)
    flags.add_argument("--config", default="imagenet", help="Whose network it is.")
    flags.add_argument("--batch", type=number(1), default=128, help="Images in the step.")
    add_fields(flags)
    arguments = flags.parse(argv)
    config = override(load(arguments.config), fields(arguments))
    start_devices(config)
    mesh = make_mesh(config.mesh.data, config.mesh.tower)
    model = AlexNet(network(config), mesh)
    optimizer = update_rule(config.optim, 1)
    size = model.network.input_size
    batch = {
        "image": np.zeros((arguments.batch, size, size, 3), np.uint8),
        "label": np.zeros(arguments.batch, np.int32),
    }
    mean_image = np.zeros((size, size, 3), np.float32)
    state = initial_state(model, optimizer, config.seed)
    step = make_train_step(model, optimizer, mean_image, config, 1)
    state = step(state, jax.device_put(batch, NamedSharding(mesh, IMAGES)))
    print(DISPATCHED, flush=True)
    jax.block_until_ready(state)


if __name__ == "__main__":
    start(main)
