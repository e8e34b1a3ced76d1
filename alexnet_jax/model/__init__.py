"""The network itself: needs jax and flax, nothing else.

`network` says what the layers are and `alexnet` computes them: the paper's section 3. `tower` is
one device's share, `layers` has the operators, `cpu` and `winograd` faster forms of them, `towers`
the mesh.
"""

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Conv, Dense, Network
from alexnet_jax.model.towers import make_mesh

__all__ = ["AlexNet", "Conv", "Dense", "Network", "make_mesh"]
