"""What a trained network says of image files: the most probable classes of each."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data import photos
from alexnet_jax.evaluation.trained_network import TrainedNetwork, batch_size_for

TOP = 5
Top = list[tuple[str, float]]  # classes and their probabilities, the most probable first


class Answer(NamedTuple):
    """What a network says of a file, or why it cannot.

    Attributes:
        file: its name.
        problem: why it cannot be used; empty if it can.
        picture: what was looked at, (S, S, 3) uint8.
        probabilities: of the classes, (classes,) float32.
        label: of the class that it shows, where that is known.
    """

    file: str
    problem: str
    picture: np.ndarray
    probabilities: np.ndarray
    label: int | None = None

    @property
    def best(self) -> list[int]:
        """The labels of the most probable classes, five or all, the most probable first."""
        return best(self.probabilities)

    def top(self, classes: Sequence[str]) -> Top:
        """The most probable classes with their probabilities."""
        return top(self.probabilities, classes)

    def numbers(self, class_names: Sequence[str]) -> dict[str, list[Any]]:
        """What tells the most probable classes apart, where two of ImageNet's share their words:
        'labels', and 'wnids' where the dataset names its classes by WordNet ids. Nothing where
        there is a problem."""
        if self.problem:
            return {}
        names = [class_names[label] for label in self.best]
        wnids = [name if re.fullmatch(r"n\d{8}", name) else None for name in names]
        return {"labels": self.best} | ({"wnids": wnids} if any(wnids) else {})


def best(probabilities: np.ndarray) -> list[int]:
    """The labels of the most probable classes, five or all, the most probable first."""
    order: list[int] = np.argsort(-probabilities, kind="stable")[:TOP].tolist()
    return order


def top(probabilities: np.ndarray, classes: Sequence[str]) -> Top:
    """Those classes with their probabilities."""
    return [(classes[label], float(probabilities[label])) for label in best(probabilities)]


def answers(
    network: TrainedNetwork, files: Sequence[str], ten_views: bool = False
) -> Iterator[Answer]:
    """Answers for files, in their order; however many they are, two batches are in memory.

    The folder of a file is its label, if it has the name of a class.

    Args:
        network: which is asked.
        files: of images.
        ten_views: average over the ten views.
    """
    nothing = np.zeros(0)
    labels = photos.labels_by_name(network.class_names, network.classes)
    at_once = batch_size_for(len(files))
    for batch in photos.read_images(files, network.size, at_once):
        pictures = [found for _, found in batch if isinstance(found, np.ndarray)]
        rows: Iterator[np.ndarray] = iter(())
        if pictures:
            stack = np.stack(pictures)
            rows = iter(network.predict(stack, ten_views=ten_views, batch_size=at_once))
        for file, found in batch:
            if isinstance(found, str):
                yield Answer(file, found, nothing, nothing)
            else:
                yield Answer(file, "", found, next(rows), photos.folder_label(file, labels))


def compile_for(network: TrainedNetwork, count: int) -> None:
    """Compiles what `answers` needs for so many files, ahead of the clock."""
    at_once = batch_size_for(count)
    network.predict(np.zeros((at_once, network.size, network.size, 3), np.uint8))


def print_block(file: str, answer: str | Top, _: object = None) -> None:
    """Prints an answer for people; the reason why there is none goes to stderr."""
    if isinstance(answer, str):
        sys.stdout.flush()
        print(f"skipped {photos.printable(file)}: {answer}", file=sys.stderr)
        return
    print(photos.printable(file))
    for name, probability in answer:
        print(f"  {probability:6.1%}  {photos.printable(name)}")


def print_json(file: str, answer: str | Top, numbers: Mapping[str, Any] | None = None) -> None:
    """Prints an answer for programs, one JSON object; a reason is for people as well.

    Args:
        file: that was looked at.
        answer: the most probable classes, or the reason why there are none.
        numbers: see `Answer.numbers`.
    """
    if isinstance(answer, str):
        print_block(file, answer)
    field: dict[str, Any] = {"error": answer} if isinstance(answer, str) else {"top5": answer}
    print(json.dumps({"file": file} | field | dict(numbers or {})))


def print_times(
    network: TrainedNetwork, count: int, ten_views: bool, clock: Sequence[float]
) -> None:
    """Prints on stderr what an answer took.

    Args:
        network: which was asked.
        count: of images that it answered.
        ten_views: whether it looked ten times.
        clock: the seconds before and after restoring, after compiling, and at the end.
    """
    restoring, compiling, predicting = np.diff(clock)
    images = f"{count:,} image{'s' * (count > 1)}"
    print(
        f"{images} in {'ten views' if ten_views else 'one view'}, "
        f"{1000 * predicting / count:,.1f} ms each; before that restoring step "
        f"{network.step:,} of {network.name} took {restoring:.1f} s and compiling "
        f"{compiling:.1f} s",
        file=sys.stderr,
    )
