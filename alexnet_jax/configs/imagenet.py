"""The 2012 run: the full network on ILSVRC-2012.

    python -m alexnet_jax.main --workdir=W --config=imagenet

Expected, from the paper (Table 2): 40.7% top-1 and 18.2% top-5 error on the validation split in ten
views, about two points more in one. It has not been run here. Data: a prepared TFDS imagenet2012
(about 155 GB), and a cache of 256 x 256 pixels, about 260 GB, beside it.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import base


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    return base.get_config(preset)
