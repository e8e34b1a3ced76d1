"""What a network says of every image of a split: errors by class, confusions, the worst mistakes.

Of an image only five numbers are kept, so that the memory does not depend on the classes.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.evaluation.scores import ahead, interval
from alexnet_jax.run import hosts


class Answered(NamedTuple):
    """The answers for all images of a split, in their order; arrays (N,).

    Attributes:
        views: how many the probabilities are the mean of.
        labels: of the images.
        answers: the most probable class. It is another than the label wherever `scores.sums` counts
            an error, so also where the label only ties, or a probability is no number.
        ahead: classes that are before the label; 0 is right, below 5 right among five.
        given: the probability of the label.
        sure: the probability of the answer.
    """

    views: int
    labels: np.ndarray
    answers: np.ndarray
    ahead: np.ndarray
    given: np.ndarray
    sure: np.ndarray

    @property
    def mistakes(self) -> np.ndarray:
        """The numbers of the images with a wrong answer, the worst first: that of which the network
        was surest, and of equals that whose label it gave less."""
        (wrong,) = np.nonzero(self.answers != self.labels)
        order: np.ndarray = wrong[np.lexsort((self.given[wrong], -self.sure[wrong]))]
        return order


class Notes:
    """Takes note of the answers, batch after batch; what an `Evaluator` lets watch."""

    def __init__(self, views: int) -> None:
        """Args:
        views: of which means it takes note.
        """
        self._views = views
        self._parts: list[dict[str, np.ndarray]] = []

    def __call__(
        self, count: int, probabilities: jax.Array, batch: Mapping[str, jax.Array]
    ) -> None:
        """Notes a batch, in all processes.

        Args:
            count: of views that the probabilities come from.
            probabilities: (N, classes).
            batch: has `label` and `weight`, both (N,).
        """
        if count == self._views:
            real = hosts.whole(batch["weight"]) > 0
            found = _noted(probabilities, batch["label"])
            self._parts.append({name: hosts.whole(part)[real] for name, part in found.items()})

    def answered(self) -> Answered:
        """All that was noted."""
        names = Answered._fields[1:]
        return Answered(
            self._views, *(np.concatenate([part[name] for part in self._parts]) for name in names)
        )


@jax.jit
def _noted(probabilities: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    own = labels[:, None] == jnp.arange(probabilities.shape[1])
    given = jnp.sum(jnp.where(own, probabilities, 0), axis=1)
    others = jnp.where(own, -jnp.inf, probabilities)
    most = jnp.max(others, axis=1)
    right = given > most
    return {
        "labels": labels,
        "answers": jnp.where(right, labels, jnp.argmax(others, axis=1)),
        "ahead": ahead(probabilities, labels),
        "given": given,
        "sure": jnp.where(right, given, most),
    }


class OfClass(NamedTuple):
    """How a network did on the images of one class, and what else it took for it.

    Attributes:
        label: of the class.
        images: of it.
        top1_errors: those with a wrong answer.
        top5_errors: those whose class is not among the five most probable.
        false_alarms: images of other classes with this answer.
        confused_with: the label of the most frequent wrong answer, of equals the first; -1: none.
        confused_images: how often it was given.
    """

    label: int
    images: int
    top1_errors: int
    top5_errors: int
    false_alarms: int
    confused_with: int
    confused_images: int

    @property
    def error(self) -> float:
        """Top-1, a fraction of 1; of no images not a number."""
        return self.top1_errors / self.images if self.images else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Of the error, see `scores.interval`; of no images nothing is known."""
        return interval(self.error, self.images) if self.images else (0.0, 1.0)


def confusions(answered: Answered, classes: int) -> np.ndarray:
    """(classes, classes) int64: how many images of each class, a row, had each answer."""
    pairs = answered.labels.astype(np.int64) * classes + answered.answers
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def by_class(answered: Answered, counts: np.ndarray) -> list[OfClass]:
    """How the network did on each class, in the order of the labels.

    Args:
        answered: by the network.
        counts: of `confusions`.
    """
    classes = len(counts)
    images = counts.sum(axis=1)
    right = np.diagonal(counts)
    top5 = np.bincount(answered.labels[answered.ahead >= 5], minlength=classes)
    wrong = counts - np.diag(right)
    rivals, times = wrong.argmax(axis=1), wrong.max(axis=1)
    columns = (
        images, images - right, top5, wrong.sum(axis=0), np.where(times, rivals, -1), times,
    )  # fmt: skip
    return [OfClass(label, *map(int, row)) for label, row in enumerate(zip(*columns, strict=True))]


def most_confused(counts: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """The most frequent wrong answers: label, answer, images; of equals the first.

    Args:
        counts: of `confusions`.
        most: how many, at most.
    """
    wrong = counts - np.diag(np.diagonal(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(a), int(b), int(wrong[a, b])) for a, b in places if wrong[a, b]]


# --- tables ---------------------------------------------------------------------------------------


def classes_csv(
    found: Iterable[OfClass], names: Sequence[str], words: Sequence[str], views: int
) -> bytes:
    """A row for every class; errors are fractions of 1, empty where there are no images."""
    head = (
        "label", "class", "words", "views", "images", "top1_errors", "top1_error", "low", "high",
        "top5_errors", "false_alarms", "confused_with", "confused_images",
    )  # fmt: skip
    rows = []
    for own in found:
        numbers = (own.error, *own.interval) if own.images else ("",) * 3
        rival = names[own.confused_with] if own.confused_with >= 0 else ""
        rows.append((
            own.label, names[own.label], words[own.label], views, own.images, own.top1_errors,
            *numbers, own.top5_errors, own.false_alarms, rival, own.confused_images,
        ))  # fmt: skip
    return _csv(head, rows)


def confusion_csv(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """The images of each class, a row, by their answers, the columns."""
    rows = ((name, *row.tolist()) for name, row in zip(names, counts, strict=True))
    return _csv(("class", *names), rows)


def mistakes_csv(answered: Answered, names: Sequence[str], images: Sequence[str]) -> bytes:
    """Every wrong answer, the worst first.

    Args:
        answered: by the network.
        names: of the classes.
        images: the name of every image.
    """
    head = (
        "image", "number", "class", "answer", "views", "probability_of_answer",
        "probability_of_class",
    )  # fmt: skip
    rows = (
        (images[i], i, names[answered.labels[i]], names[answered.answers[i]], answered.views,
         f"{answered.sure[i]:.6g}", f"{answered.given[i]:.6g}")
        for i in answered.mistakes.tolist()
    )  # fmt: skip
    return _csv(head, rows)


def image_names(cache: Cache, split: str) -> list[str]:
    """The name of every image of a split; 'test 17' where they are decoded on the way, which lists
    none."""
    with suppress(FileNotFoundError):
        return [name for _, _, name in cache.rows(split)]
    return [f"{split} {number}" for number in range(len(cache.images[split]))]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")  # a folder's name may be no UTF-8
