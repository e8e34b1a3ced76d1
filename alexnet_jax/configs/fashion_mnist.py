"""Fashion-MNIST: 60,000 real images, 28 x 28 pixels of grey, 10 classes.

    python -m alexnet_jax.main --workdir=W --config=fashion_mnist

A minute on an H200, 21 on two CPU cores; 7.68% top-1 error in ten views of the 10,000 test images,
by the last checkpoint, a mean of three seeds (`experiments/results/fashion_mnist`).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.settings import presets, scaling


def get_config(preset: str = "reconciled", *, conv: float = 1 / 4, fc: int = 1024) -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = base.get_config(preset)
    config.batch_size = 128
    config.epochs = 24.0

    config.data.source = "fashion_mnist"
    config.data.size = 30
    config.data.validation = ""
    config.data.test = "test"
    config.data.lighting = "none"  # the images are grey
    config.data.lighting_divisor = 1.0

    config.model.classes = 10
    config.model.input_size = 28
    config.model.conv1.kernel, config.model.conv1.stride = 5, 1
    config.model.conv1.padding = (2, 2)
    scaling.shrink(config.model, conv=conv, fc=fc)

    presets.set_drops(config, 0.62, 0.87)
    return config
