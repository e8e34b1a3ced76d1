"""What a TPU does in its own way: nothing yet, the plain operators as XLA compiles them."""

from alexnet_jax.model.plain import Plain

PLATFORM = Plain()
