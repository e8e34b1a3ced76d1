"""The six-convolution network of "1 CNN*", on all of ImageNet; `finetune_2012` starts from it.

    python -m alexnet_jax.main --workdir=W --config=pretrain --config.data.source=folder:PATH

PATH/CLASS/*.jpg holds the ImageNet 2011 Fall release: 15 million images of 22,000 categories (paper
section 6). A cache of them takes 2.9 TB; `--config.data.cache=none` does without. It has not been
run here.

In 2012 three runs led to it, of which the paper names the last: conv1 to conv5 came from the
network of 2012, were trained on with conv6 on the Fall 2009 release (10,184 classes, some 6.6
epochs), and then here (some 8.1 epochs). Each is a command, with `--config.init_from` naming the
run before. `layers-146-2011.cfg` has 2 x 1024 linear units between fc7 and the 21,843 classes; here
fc8 follows fc7. The learning rates of that run are not known: those of 2012 are taken.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = base.get_config(preset)
    config.epochs = 8.1

    config.data.source = "folder:imagenet2011"
    config.data.holdout = 0.005  # the release has no validation split

    config.model.classes = 21843
    config.model.conv6.width = 256  # after pool5, unpooled (layers-146-2012-2011.cfg)
    return config
