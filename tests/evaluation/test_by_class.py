"""Errors by class, confusions and mistakes, against scikit-learn and scipy."""

import csv
import io
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from alexnet_jax.evaluation.by_class import (
    Answered,
    Notes,
    by_class,
    classes_csv,
    confusion_csv,
    confusions,
    mistakes_csv,
    most_confused,
)
from alexnet_jax.evaluation.scores import sums

CLASSES, COUNT, BATCH = 9, 400, 64
EMPTY = 7  # a class without images


def answers(seed: int = 0, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, classes) of a network that is often right, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, COUNT)
    labels[labels == EMPTY] = 0
    logits = rng.normal(0, 1.2, (COUNT, classes)) + 2 * np.eye(classes)[labels]
    powers = np.exp(logits)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32), labels


def noted(probabilities: np.ndarray, labels: np.ndarray, views: int = 10) -> Answered:
    """What `Notes` takes down of batches, the last of which is padded, between those of one view,
    which are of something else."""
    notes = Notes(views)
    for start in range(0, len(labels), BATCH):
        part, own = probabilities[start : start + BATCH], labels[start : start + BATCH]
        spare = BATCH - len(own)
        batch = {
            "label": jnp.pad(jnp.asarray(own, jnp.int32), (0, spare)),
            "weight": jnp.pad(jnp.ones(len(own)), (0, spare)),
        }
        padded = jnp.pad(jnp.asarray(part), ((0, spare), (0, 0)))
        notes(1, padded[:, ::-1], batch)
        notes(views, padded, batch)
    return notes.answered()


def test_confusions_are_those_of_scikit_learn() -> None:
    """Every image once, also in the last batch, and in ten views alone."""
    probabilities, labels = answers()
    found = noted(probabilities, labels)
    assert found.views == 10
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(CLASSES))
    counts = confusions(found, CLASSES)
    np.testing.assert_array_equal(counts, expected)
    assert 0 < np.trace(counts) < COUNT
    np.testing.assert_array_equal(found.given, probabilities[np.arange(COUNT), labels])
    np.testing.assert_array_equal(found.sure, probabilities.max(1))


def test_errors_of_each_class() -> None:
    """Counted by scikit-learn class by class, with scipy's intervals."""
    probabilities, labels = answers()
    found = noted(probabilities, labels)
    given = probabilities.argmax(1)
    rows = by_class(found, confusions(found, CLASSES))
    assert [row.label for row in rows] == list(range(CLASSES))
    for row in rows:
        own = labels == row.label
        assert row.images == own.sum()
        assert row.false_alarms == (~own & (given == row.label)).sum()
        if row.label == EMPTY:
            assert np.isnan(row.error) and row.interval == (0, 1) and row.confused_with == -1
            continue
        assert row.top1_errors == (given[own] != row.label).sum()
        right = top_k_accuracy_score(
            labels[own], probabilities[own], k=5, labels=range(CLASSES), normalize=False
        )
        assert row.top5_errors == row.images - right
        wilson = binomtest(row.top1_errors, row.images).proportion_ci(method="wilson")
        assert row.interval == pytest.approx((wilson.low, wilson.high), abs=1e-6)
        wrong = given[own & (given != row.label)]
        times = np.bincount(wrong, minlength=CLASSES)
        assert (row.confused_with, row.confused_images) == (times.argmax(), times.max())
    assert sum(row.top5_errors for row in rows) > 0


def test_what_counts_as_an_error_is_confused() -> None:
    """A tie, and a probability that is no number: as `sums` counts, so does the matrix."""
    probabilities = np.array([
        [0.4, 0.4, 0.2],  # a tie: no credit
        [0.4, 0.4, 0.2],
        [0.4, 0.4, 0.2],
        [np.nan, 0.8, 0.2],
        [0.5, np.nan, 0.5],
        [np.nan, np.nan, np.nan],
        [0.0, 0.1, 0.9],
    ], np.float32)  # fmt: skip
    labels = np.array([0, 1, 2, 1, 1, 0, 2])
    found = noted(probabilities, labels)
    assert found.answers.tolist() == [1, 0, 0, 0, 0, 1, 2]
    expected = sums(jnp.asarray(probabilities), jnp.asarray(labels), jnp.ones(len(labels)))
    counts = confusions(found, 3)
    assert len(labels) - np.trace(counts) == expected["top1"] == 6


def test_one_class() -> None:
    """It is always right."""
    found = noted(np.ones((5, 1), np.float32), np.zeros(5, int))
    (row,) = by_class(found, confusions(found, 1))
    assert (row.images, row.top1_errors, row.confused_with) == (5, 0, -1)
    assert most_confused(confusions(found, 1), 3) == [] and len(found.mistakes) == 0


def test_the_worst_mistakes_come_first() -> None:
    """The surest wrong answer; of equals the one that gave the label less; none that is right."""
    probabilities = np.array([
        [0.6, 0.3, 0.1], [0.9, 0.06, 0.04], [0.6, 0.1, 0.3], [0.1, 0.9, 0.0],
    ], np.float32)  # fmt: skip
    found = noted(probabilities, np.array([1, 0, 1, 2]))
    assert found.mistakes.tolist() == [3, 2, 0]


def test_most_confused() -> None:
    """The largest numbers off the diagonal, of equals the first, and no zeros."""
    counts = np.array([[90, 3, 0], [3, 80, 7], [0, 1, 70]])
    assert most_confused(counts, 3) == [(1, 2, 7), (0, 1, 3), (1, 0, 3)]
    assert most_confused(counts, 99)[3:] == [(2, 1, 1)]


def read(content: bytes) -> list[dict[str, Any]]:
    text = content.decode(errors="surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_tables() -> None:
    """Names come back whatever they hold, and numbers as they were."""
    probabilities, labels = answers()
    found = noted(probabilities, labels)
    counts = confusions(found, CLASSES)
    rows = by_class(found, counts)
    names = ["왕의 깃발", 'a "b", c', "line\nend", "=1+1", "\udcff", " x ", "y", "empty", "z"]
    words = [name.upper() for name in names]
    table = read(classes_csv(rows, names, words, 10))
    for line, row, name in zip(table, rows, names, strict=True):
        assert (line["class"], line["words"], line["views"]) == (name, name.upper(), "10")
        assert int(line["images"]) == row.images
        assert int(line["top1_errors"]) == row.top1_errors
        if row.images:
            low, high = row.interval
            numbers = [float(line[column]) for column in ("top1_error", "low", "high")]
            assert numbers == [row.error, low, high] and low < row.error < high
            assert line["confused_with"] == names[row.confused_with]
        else:
            assert line["top1_error"] == line["low"] == line["confused_with"] == ""

    matrix = read(confusion_csv(counts, names))
    assert [line.pop("class") for line in matrix] == names
    assert [list(map(int, line.values())) for line in matrix] == counts.tolist()
    assert list(matrix[0]) == names

    images = [f"{name}.png" for name in range(COUNT)]
    wrong = read(mistakes_csv(found, names, images))
    assert len(wrong) == COUNT - np.trace(counts)
    for line, number in zip(wrong, found.mistakes, strict=True):
        assert line["image"] == images[number] and int(line["number"]) == number
        assert line["class"] == names[labels[number]]
        assert line["answer"] == names[probabilities[number].argmax()]
        sure = float(line["probability_of_answer"])
        assert sure == pytest.approx(probabilities[number].max(), rel=1e-5)
        given = float(line["probability_of_class"])
        assert given == pytest.approx(probabilities[number, labels[number]], rel=1e-5)
