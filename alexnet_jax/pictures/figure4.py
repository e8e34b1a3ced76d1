"""The paper's Figure 4: answers with their probabilities, and nearest neighbours (section 6.1)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import photos
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.answers import TOP, Answer
from alexnet_jax.evaluation.features import Row
from alexnet_jax.evaluation.neighbours import OfImages, nearest
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.pictures.sheet import BAR, Sheet, short

WRONG = "#b03028"  # the name of a neighbour of another class
ACROSS = 4  # panels in a row
NEAREST = 6  # neighbours of a query

# All in pixels.
SIDE, TITLE, GAP = 160, 20, 14  # a panel: picture, true label, space around
SMALL, CAPTION, BESIDE = 112, 28, 6  # a neighbour: picture, two lines, space beside


class Shown(NamedTuple):
    """A picture (S, S, 3) uint8, what to call it, and its label if that is known."""

    picture: np.ndarray
    name: str
    label: int | None


class Neighbours(NamedTuple):
    """A row of the right half: a query, and the nearest to it with their distances."""

    query: Shown
    found: Sequence[tuple[Shown, float]]


def draw_answers(answers: Sequence[Answer], classes: Sequence[str], path: str | Path) -> None:
    """Draws each picture with its true label and a bar for each of the most probable classes.

    The bar of the true label is red, as in the paper.

    Args:
        answers: to be drawn.
        classes: what each label means, in words.
        path: of the drawing.
    """
    columns = min(ACROSS, len(answers))
    rows = -(-len(answers) // columns)
    bars = min(TOP, len(classes))
    width, height = SIDE + GAP, SIDE + TITLE + BAR * bars + GAP
    sheet = Sheet(columns * width + GAP, rows * height + GAP)
    for place, answer in enumerate(answers):
        left, top = place % columns * width + GAP, place // columns * height + GAP
        sheet.picture(left, top, answer.picture, SIDE)
        below, shares = top + SIDE + TITLE, answer.probabilities
        axes = sheet.bars(left, below, SIDE, shares, answer.best, classes, answer.label)
        if answer.label is not None:
            title = short(classes[answer.label])
            axes.set_title(title, fontsize=7.5, fontweight="bold", pad=4)
    sheet.save(path)


def draw_nearest(
    network: TrainedNetwork,
    rows: Sequence[Row],
    features: np.ndarray,
    picture: Callable[[int, Row], np.ndarray],
    queries: int,
    path: str | Path,
) -> None:
    """Draws images from all over the rows, with the nearest of all others, and says so.

    Args:
        network: whose features they are.
        rows: of all images.
        features: (N, ...), of the rows.
        picture: of an image, by its number and row.
        queries: how many; rows are often sorted by class, so that the first would be of one.
        path: of the drawing.

    Raises:
        UserError: there are no others.
    """
    if len(rows) < 2:
        raise UserError("a single image has no neighbours: name more images")

    def show(number: int) -> Shown:
        row = rows[number]
        known = row.label >= 0
        name = network.classes[row.label] if known else photos.printable(Path(row.name).name)
        return Shown(picture(number, row), name, row.label if known else None)

    asked = spread(queries, len(rows))
    draw_neighbours(neighbours(features, asked, show), path)
    print(f"{path}: {len(asked)} images and the nearest to each")


def spread(count: int, total: int) -> list[int]:
    """Some numbers below `total`, or all, from all over."""
    count = min(count, total)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def draw_neighbours(rows: Sequence[Neighbours], path: str | Path) -> None:
    """Draws queries in the first column, and the neighbours of each beside it, nearest first.

    Under a neighbour are its class, red if it is not the query's, and its distance.
    """
    step, height = SMALL + BESIDE, SMALL + CAPTION + GAP
    columns = max(len(row.found) for row in rows)
    sheet = Sheet(3 * GAP + SMALL + columns * step - BESIDE, TITLE + len(rows) * height)
    for number, (query, found) in enumerate(rows):
        top = TITLE + number * height
        axes = sheet.picture(GAP, top, query.picture, SMALL)
        axes.set_xlabel(short(query.name), fontsize=6, fontweight="bold", labelpad=3)
        if number == 0:
            axes.set_title("query", fontsize=8, pad=4, loc="left")
        for place, (shown, distance) in enumerate(found):
            axes = sheet.picture(2 * GAP + SMALL + place * step, top, shown.picture, SMALL)
            wrong = None not in (query.label, shown.label) and query.label != shown.label
            caption = f"{short(shown.name)}\n{distance:.3g}"
            axes.set_xlabel(caption, fontsize=6, labelpad=3, color=WRONG if wrong else "black")
            if number == place == 0:
                axes.set_title("nearest (distance)", fontsize=8, pad=4, loc="left")
    sheet.save(path)


def neighbours(
    features: np.ndarray | OfImages, queries: Sequence[int], show: Callable[[int], Shown]
) -> list[Neighbours]:
    """Some rows, each with the nearest of all other rows.

    Args:
        features: (N, ...).
        queries: the numbers of these rows.
        show: the picture of a row.
    """
    found = []
    for query, *others in zip(
        queries, *nearest(features, features[list(queries)], NEAREST + 1), strict=True
    ):
        pairs = [(i, d) for i, d in zip(*others, strict=True) if i != query][:NEAREST]
        found.append(Neighbours(show(query), [(show(int(i)), float(d)) for i, d in pairs]))
    return found
