"""The network of `embedded` on fewer pictures, of which every other is hard to make out.

    python -m alexnet_jax.main --workdir=W --config=embedded_hard

Needs no download. 2,000 training images of 20 classes. Where `embedded` is solved to a hundredth,
here a network can be better or worse than another: the claims of the paper are tried on it.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import embedded


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = embedded.get_config(preset)
    config.data.source = "embedded/hard"
    config.epochs = 25.0
    config.eval_every = 5.0
    config.log_every = 25
    config.mesh.tower = 1  # many runs, each on a core of its own
    return config
