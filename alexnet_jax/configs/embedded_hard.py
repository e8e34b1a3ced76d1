"""A quarter of every width, on a thousand pictures, of objects that may be small or half hidden.

    python -m alexnet_jax.main --workdir=W --config=embedded_hard

Needs no download. 1,000 training images of 20 classes. Where `embedded` is solved to a hundredth,
here a network can be better or worse than another: the claims of the paper are tried on it.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.settings import presets, scaling


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = base.get_config(preset)
    config.batch_size = 64
    config.epochs = 40.0

    config.optim.learning_rate = 0.006

    config.data.source = "embedded/hard"
    config.data.size = 64
    config.data.test = "test"

    config.model.classes = 20
    config.model.input_size = 56
    config.model.conv1.kernel, config.model.conv1.stride = 5, 2
    config.model.conv1.padding = (0, 1)
    scaling.shrink(config.model, conv=1 / 4, fc=512)

    presets.set_drops(config, 0.6, 0.85)
    config.log_every = 25
    config.eval_every = 10.0
    return config
