"""Top-1 and top-5 error and loss: the sums over a batch, and what they come to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Score(NamedTuple):
    """How a network did on a set of images. Errors are fractions of 1."""

    views: int
    examples: int
    loss: float  # mean of -log of the probability given to the label, in nats
    top1_error: float
    top5_error: float

    def __str__(self) -> str:
        seen = "one view" if self.views == 1 else "ten views"
        return (
            f"top-1 error {self.top1_error:.2%}, top-5 error {self.top5_error:.2%}, "
            f"loss {self.loss:.4f} in {seen} of {self.examples:,} images"
        )


def sums(probabilities: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """The weighted sums of loss, errors and examples over a batch.

    A label that ties with another class for its place counts as an error, and so does a probability
    that is not a number: a network that says nothing gets no credit.

    Args:
        probabilities: (N, classes).
        labels: (N,) integers.
        weights: (N,), 1 for an example and 0 for padding.
    """
    given = jnp.take_along_axis(probabilities, labels[:, None], axis=1)
    ahead = jnp.sum(~(given > probabilities), axis=1) - 1  # the label itself is among them
    # A probability below what float32 can hold is not the end of the average.
    loss = -jnp.log(jnp.maximum(given[:, 0], jnp.finfo(jnp.float32).tiny))
    return {
        "loss": jnp.sum(jnp.where(weights > 0, loss, 0.0)),
        "top1": jnp.sum(weights * (ahead >= 1)),
        "top5": jnp.sum(weights * (ahead >= 5)),
        "examples": jnp.sum(weights),
    }
