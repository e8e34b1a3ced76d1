"""What a GPU does in its own way."""

from alexnet_jax.model.gpu.tower import TowersApart
from alexnet_jax.model.plain import Plain


class GPU(Plain):
    """How the network is computed on a GPU."""

    tower = TowersApart


PLATFORM = GPU()
