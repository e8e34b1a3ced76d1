"""The network itself, the paper's section 3: needs jax and flax, nothing else.

`network` says what the layers are and `alexnet` computes them on a `mesh`. `tower` is one device's
share of it, `operators` has convolution, LRN, pooling and dropout. What a platform does in its own
way lies in `cpu`, `gpu` and `tpu`; `platforms` chooses.
"""

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.mesh import make_mesh
from alexnet_jax.model.network import Conv, Dense, Network

__all__ = ["AlexNet", "Conv", "Dense", "Network", "make_mesh"]
