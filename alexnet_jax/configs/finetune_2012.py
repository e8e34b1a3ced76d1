"""The paper's "1 CNN*": the pretrained network of six convolutions, fine-tuned on ILSVRC-2012.

    python -m alexnet_jax.main --workdir=W2 --config=finetune_2012 --config.init_from=W

W is a run of `pretrain`; every layer but fc8 comes from it. Expected, from the paper (table 2):
39.0% top-1 and 16.6% top-5 error on the validation split in ten views, where the network without
conv6 and pretraining has 40.7% and 18.2%. It has not been run here. Other images, or other weights:
`finetune`.

From `layers-146-2012-2011.cfg` and its notes: a rate of 0.001, a tenth of that of a run from
scratch, for conv1 0.0001, and 54 epochs. When the rate was lowered is not known; the drops are
those of the 2012 run after its own rate had come down to 0.001 (epochs 51 and 79 of 25 to 91).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.settings import presets


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = base.get_config(preset)
    config.init_from = "PRETRAINED"  # no default would do: name the directory
    config.epochs = 54.0
    config.model.conv6.width = 256
    config.optim.learning_rate = 0.001
    config.optim.rates.conv1 = 0.1
    presets.set_drops(config, 0.39, 0.82)
    return config
