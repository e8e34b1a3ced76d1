"""The network of `embedded` on fewer pictures, of which every other is hard to make out.

    python -m alexnet_jax.main --workdir=W --config=embedded_hard

Needs no download. 1,000 training images of 20 classes. `embedded` is solved to within a hundredth;
here one network can be better or worse than another, so the claims of the paper are tried on it. At
the rate of 2012 some seeds are late to find that there are patterns, and how late would decide
their error; at half that rate all find them early.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import embedded


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the configuration, in one of the three readings of `presets`."""
    config = embedded.get_config(preset)
    config.data.source = "embedded/hard"
    config.epochs = 40.0
    config.eval_every = 10.0
    config.optim.learning_rate = 0.005
    config.log_every = 25
    config.mesh.tower = 1  # many runs, each on a core of its own
    return config
