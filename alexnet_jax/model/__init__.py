"""The network itself: needs jax and flax, nothing else.

`alexnet` is the paper's section 3, `layers` its operators, `cpu` and `winograd` faster forms
of them, `towers` the mesh they live on.
"""

from alexnet_jax.model.alexnet import AlexNet, Conv, Dense, Network
from alexnet_jax.model.towers import make_mesh

__all__ = ["AlexNet", "Conv", "Dense", "Network", "make_mesh"]
