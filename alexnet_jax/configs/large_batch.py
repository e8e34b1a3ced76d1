"""ImageNet in large steps: 8,192 images each, batch norm for LRN, LARS.

    python -m alexnet_jax.main --workdir=W --config=large_batch

The recipe of LARS's author for AlexNet with batch norm: 100 epochs, rate 10 with a trust of 0.001,
which rises in the first 600 of 15,600 steps and then falls with the square of what is left
(arXiv 1708.03888; `solver_8K.prototxt` and `train_val.prototxt` of borisgin/nvcaffe,
models/alexnet_bn). 16,384 and 32,768 images had rates of 24 and 32 there. Others followed with
65,536 images in four minutes (arXiv 1807.11205) and 95 epochs in a minute and a half (1902.06855).
Where memory ends, `accumulate` takes the step in parts. It has not been run here at this size.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.settings.presets import large_steps


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = base.get_config(preset)
    large_steps(config)
    config.batch_size = 8192
    config.epochs = 100.0
    config.dtype = "bfloat16"
    config.log_every = 10
    config.optim.learning_rate = 10.0
    config.optim.bias_multiplier = 0.02  # whose gradients are not scaled: a rate of 0.2
    return config
