"""The paper's one-GPU control: half of the kernels, one tower, dense (footnote 2).

    python -m alexnet_jax.main --workdir=W --config=half

59,798,312 parameters: 48-128-192-192-256 kernels, the last convolution and the fully connected
layers at full width (`layers-145-half.cfg`). The paper's two towers were 1.7 (top-1) and 1.2
(top-5) points better. It has not been run here.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = base.get_config(preset)
    config.model.towers = 1
    for name, width in zip(("conv1", "conv2", "conv3", "conv4"), (48, 128, 192, 192), strict=True):
        config.model[name].width = width
    return config
