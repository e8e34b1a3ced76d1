"""What every platform does, where it does nothing in its own way."""

from typing import Any

from alexnet_jax.model.tower import Tower

Tree = Any


class Plain:
    """How a platform computes the network: here by the plain operators, as XLA compiles them."""

    tower: type[Tower] = Tower  # computes the convolutional layers on one device

    def compiler_options(self, *, training: bool = False) -> dict[str, str]:
        """Returns what `jax.jit` is to tell the compiler, in training and at test."""
        del training
        return {}

    def computed_once(self, x: Tree) -> Tree:
        """Returns `x`, which XLA shall not compute again for every reader."""
        return x

    def settle(self, x: Tree) -> None:
        """Waits where a loop must not run further ahead of the device than `x`."""
        del x
