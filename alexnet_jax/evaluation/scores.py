"""Top-1 and top-5 error and loss: the sums over a batch, and what they come to."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tabulate import tabulate


class Score(NamedTuple):
    """How a network did on a set of images. Errors are fractions of 1."""

    views: int
    examples: int
    loss: float  # mean of -log of the probability given to the label, in nats
    top1_error: float
    top5_error: float

    @property
    def seen(self) -> str:
        """'one view' or 'ten views'."""
        return "one view" if self.views == 1 else "ten views"

    def __str__(self) -> str:
        return (
            f"top-1 error {self.top1_error:.2%}, top-5 error {self.top5_error:.2%}, "
            f"loss {self.loss:.4f} in {self.seen} of {self.examples:,} images"
        )


def interval(error: float, examples: int) -> tuple[float, float]:
    """The 95% confidence interval of an error, as far as the choice of the test images goes.

    Wilson's, for a binomial share; it stays within 0 and 1, and has a width where no image or every
    image is an error. What another seed would change is no part of it.

    Args:
        error: the share of errors, from 0 to 1.
        examples: images it was counted on.
    """
    z = 1.959964  # of the normal distribution, 95% lie within
    square = z * z / examples
    middle = (error + square / 2) / (1 + square)
    reach = math.sqrt(square * (error * (1 - error) + square / 4)) / (1 + square)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def score_table(scores: dict[str, list[Score]]) -> str:
    """A Markdown table of errors, each with its 95% confidence interval in per cent, and losses.

    Args:
        scores: of each row, in one view and in ten.
    """
    (any_way, *_) = scores.values()
    head = ["", "images"]
    for score in any_way:
        head += [f"{score.seen}: top-1", "top-5", "loss"]
    rows = []
    for name, of_way in scores.items():
        row = [name, f"{of_way[0].examples:,}"]
        for score in of_way:
            errors = score.top1_error, score.top5_error
            row += [_with_interval(error, score.examples) for error in errors]
            row.append(f"{score.loss:.4f}")
        rows.append(row)
    return tabulate(
        rows, head, "pipe", disable_numparse=True, colalign=["left"] + ["right"] * (len(head) - 1)
    )


def _with_interval(error: float, examples: int) -> str:
    low, high = interval(error, examples)
    return f"{error:.2%} ({100 * low:.2f}-{100 * high:.2f})"


def ahead(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes are before the label of each image, (N,) integers: 0 is right.

    Args:
        probabilities: (N, classes).
        labels: (N,) integers.
    """
    given = jnp.take_along_axis(probabilities, labels[:, None], axis=1)
    return jnp.sum(~(given > probabilities), axis=1) - 1  # the label itself is among them


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
    before = ahead(probabilities, labels)
    # A probability below what float32 can hold is not the end of the average.
    loss = -jnp.log(jnp.maximum(given[:, 0], jnp.finfo(jnp.float32).tiny))
    return {
        "loss": jnp.sum(jnp.where(weights > 0, loss, 0.0)),
        "top1": jnp.sum(weights * (before >= 1)),
        "top5": jnp.sum(weights * (before >= 5)),
        "examples": jnp.sum(weights),
    }


_sums = jax.jit(sums)


class Tally:
    """Adds up how predictors do on batch after batch."""

    def __init__(self) -> None:
        self._totals: dict[str, dict[int, dict[str, float]]] = {}

    def add(
        self, name: str, count: int, probabilities: jax.Array, batch: Mapping[str, jax.Array]
    ) -> None:
        """Counts a batch.

        Args:
            name: of the predictor.
            count: of views that its probabilities come from.
            probabilities: (N, classes).
            batch: has `label` and `weight`, both (N,).
        """
        added = _sums(probabilities, batch["label"], batch["weight"])
        of_name = self._totals.setdefault(name, {})
        total = of_name.setdefault(count, dict.fromkeys(added, 0.0))
        for key, value in added.items():
            total[key] += float(value)

    def scores(self) -> dict[str, list[Score]]:
        """Returns the scores of each predictor, by the number of views."""
        return {
            name: [_score(count, total) for count, total in sorted(by_count.items())]
            for name, by_count in self._totals.items()
        }


def _score(count: int, total: dict[str, float]) -> Score:
    examples = total["examples"]
    return Score(
        views=count,
        examples=round(examples),
        loss=total["loss"] / examples,
        top1_error=total["top1"] / examples,
        top5_error=total["top5"] / examples,
    )


def score_row(score: Score, step: int, epoch: float, split: str) -> dict[str, Any]:
    """A line of `metrics.jsonl`."""
    return {"step": step, "epoch": round(epoch, 4), "split": split, **score._asdict()}
