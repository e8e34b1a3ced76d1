"""The network in the forms that are fast on a CPU, for many large maps.

XLA's convolutions and products are good there; what is between them costs as much as they do, and
so it is kept small:

* the images go through the layers a few at a time (`portions`), so that what one stage writes the
  next one finds in the cache; on the way back everything but the layers' values is computed again;
* a convolution is Winograd's (`convolution`, `winograd`), a quarter of the multiplications;
* it is one operator with its bias and activation, with one rule for the way back;
* `winograd.apart` keeps XLA from fusing a stage into each of the next one's slices, where it would
  be computed many times over.

What fits into the cache at once is left to XLA, which is faster there. Measured beside the plain
forms in `experiments/results/step`; each has the values and derivatives of its plain form.
"""

from typing import Any

import jax

from alexnet_jax.model.cpu import compiler
from alexnet_jax.model.cpu.tower import PortionedTower
from alexnet_jax.model.plain import Plain

Tree = Any


class CPU(Plain):
    """How the network is computed on a CPU."""

    tower = PortionedTower
    training_may_loop = False  # for XLA's convolutions may not, see `convolution.may_loop`

    def compiler_options(
        self, *, training: bool = False, deterministic: bool = False
    ) -> dict[str, Any]:
        """Returns which of XLA's libraries computes what, see `compiler`."""
        del deterministic  # it always is
        return compiler.compiler_options(training=training)

    def computed_once(self, x: Tree) -> Tree:
        """Returns `x`, behind a barrier."""
        return jax.lax.optimization_barrier(x)

    def only_after(self, x: jax.Array, earlier: Tree) -> jax.Array:
        """Returns `x`, with nothing added that `earlier` is needed for: XLA takes barriers away
        before it puts a CPU's work in order, and would do parts of a batch side by side."""
        return x + 0 * jax.tree.leaves(earlier)[0].ravel()[0].astype(x.dtype)

    def settle(self, x: Tree) -> None:
        """Waits until `x` is computed.

        The CPU runtime takes 32 programs at a time per device. A loop that runs further ahead than
        that with programs that hold collectives never comes back: one device waits in an all-gather
        for another that is not let in, and XLA aborts the process after 40 seconds.
        """
        jax.block_until_ready(x)


PLATFORM = CPU()
