"""Any network's weights, fine-tuned on any images.

    python -m alexnet_jax.main --workdir=W2 --config=finetune --config.init_from=W \\
        --config.data.source=folder:pets

W is the directory of a run, or what `alexnet_jax.convert` made of torchvision's or Caffe's weights.
The network is W's; classes, splits and batch size come from the images (`settings.adapting`); fc8
is drawn anew. `finetune:fc8` trains fc8 alone, `finetune:fc6` the layers from fc6 on, and freezes
those before. `--config.optim.rates.conv1=0.1` slows a layer down, and 0 freezes it. The paper's own
fine-tuning is `finetune_2012`.

The rate is a tenth of that of a run from scratch, as in 2012 (`experiments/results/transfer`).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.model.network import LAYERS
from alexnet_jax.settings import presets


def get_config(first: str = LAYERS[0]) -> ConfigDict:
    """Returns the configuration that trains the layers from `first` on.

    Raises:
        ValueError: there is no such layer.
    """
    if first not in LAYERS:
        raise ValueError(f"unknown layer {first!r}: one of {', '.join(LAYERS)}")
    config = base.get_config()
    config.preset = first
    config.adapt = True
    config.epochs = 30.0
    config.optim.learning_rate = 0.001
    for layer in LAYERS[: LAYERS.index(first)]:
        config.optim.rates[layer] = 0.0
    presets.set_drops(config, 0.5, 0.8)
    config.log_every = 20
    config.eval_every = config.checkpoint_every = 3.0
    return config
