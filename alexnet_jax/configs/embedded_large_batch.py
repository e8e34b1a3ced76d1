"""The embedded dataset in steps of 512 images instead of 64.

    python -m alexnet_jax.main --workdir=W --config=embedded_large_batch

As many epochs as `embedded`, an eighth of the steps, by the means of `large_batch`.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import embedded
from alexnet_jax.settings.presets import large_steps


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = embedded.get_config(preset)
    large_steps(config)
    config.batch_size = 512
    config.log_every = 10
    config.optim.learning_rate = 10.0
    config.optim.bias_multiplier = 0.02
    return config
