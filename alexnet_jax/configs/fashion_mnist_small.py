"""An eighth of every width, on 10,000 of Fashion-MNIST's 60,000 training images.

    python -m alexnet_jax.main --workdir=W --config=fashion_mnist_small

The claims of the paper are tried on it, since they are real images and a run takes two to three
minutes on one core.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import fashion_mnist
from alexnet_jax.settings import presets


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = fashion_mnist.get_config(preset, conv=1 / 8, fc=256)
    config.batch_size = 64
    config.epochs = 6.0
    config.data.holdout = 50_000.0
    presets.set_drops(config, 0.6, 0.85)
    return config
