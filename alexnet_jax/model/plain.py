"""What every platform does, where it does nothing in its own way."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from alexnet_jax.model.tower import Tower

Tree = Any


class Plain:
    """How a platform computes the network: here by the plain operators, as XLA compiles them."""

    tower: type[Tower] = Tower  # computes the convolutional layers on one device
    training_may_loop: bool = True  # over parts of a batch

    def compiler_options(
        self, *, training: bool = False, deterministic: bool = False
    ) -> dict[str, Any]:
        """Returns what `jax.jit` is to tell the compiler, in training and at test.

        Args:
            training: not at test.
            deterministic: the same bits every time; if not, only where that costs nothing.
        """
        del training, deterministic
        return {}

    def describe_numbers(self, dtype: str, precision: str, *, deterministic: bool) -> str:
        """Says for people what training computes with, such as 'float32 products in TF32'.

        Args:
            dtype: of the activations.
            precision: of the products of float32: 'default', 'high' or 'highest'.
            deterministic: see `compiler_options`.
        """
        del deterministic  # it always is
        narrow = self.products.get(precision)
        return f"float32, products in {narrow}" if narrow and dtype == "float32" else dtype

    products: ClassVar[Mapping[str, str]] = {}  # by precision, where they are less than float32

    def computed_once(self, x: Tree) -> Tree:
        """Returns `x`, which XLA shall not compute again for every reader."""
        return x

    def only_after(self, x: jax.Array, earlier: Tree) -> jax.Array:
        """Returns `x`, which shall not be used before `earlier` is known."""
        del earlier
        return x

    def settle(self, x: Tree) -> None:
        """Waits where a loop must not run further ahead of the device than `x`."""
        del x
