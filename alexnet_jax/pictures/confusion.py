"""What was taken for what: the confusion matrix as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from alexnet_jax.pictures.saving import save
from alexnet_jax.pictures.sheet import short

CELLS = 100  # in a row at most; of more classes several share one
COUNTED = 25  # classes up to which the images of a cell are written into it
SHARES = (0, 0.01, 0.05, 0.2, 0.5, 1)  # beside the colours


def draw_confusions(
    counts: np.ndarray, classes: Sequence[str], path: str | Path, seen: str
) -> Path:
    """Draws how the images of each class, a row, were answered.

    The colour is a cell's share of the images of its row; steps are finer where shares are small.

    Args:
        counts: (C, C) integers, of `by_class.confusions`.
        classes: what to call each label.
        path: of the picture.
        seen: 'one view' or 'ten views'.
    """
    together = -(-len(counts) // CELLS)
    blocks = in_blocks(counts, together)
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    cells = len(blocks)
    side = max(0.1, min(0.4, 8 / cells), 2 / cells)  # inches
    whole = cells * side
    figure = Figure(figsize=(whole + 1, whole), dpi=150)
    axes = figure.add_axes((0, 0, whole / (whole + 1), 1))
    norm = PowerNorm(0.4, 0, 1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto")
    size = min(9.0, max(7.0, 50 * side))  # points, of which an inch has 72
    step = math.ceil((size + 1) / (72 * side))  # names do not overlap
    places = range(0, cells, step)
    names = [short(classes[place * together]) for place in places]
    axes.set_xticks(places, names, rotation=90, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    axes.tick_params(length=2, width=0.5)
    axes.set_xlabel(f"answer in {seen}")
    axes.set_ylabel("class")
    if cells <= COUNTED:
        for row, column in zip(*np.nonzero(blocks), strict=True):
            colour = "white" if norm(shares[row, column]) > 0.6 else "black"
            number, small = f"{blocks[row, column]:,}", min(8.0, 22 * side)
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=small)
    beside = figure.add_axes(((whole + 0.2) / (whole + 1), 0, 0.12 / (whole + 1), 1))
    bar = figure.colorbar(image, beside, ticks=SHARES, format=lambda share, _: f"{share:.0%}")
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)
    bar.set_label("of the images of the " + ("row" if together > 1 else "class"), fontsize=8)
    if together > 1:
        axes.set_title(
            f"{len(counts):,} classes, {together} in every row and column, which has the name of "
            "the first",
            fontsize=9,
        )
    return save(figure, path)


def in_blocks(counts: np.ndarray, together: int) -> np.ndarray:
    """Sums rows and columns, so many at a time; the last block may have fewer."""
    starts = np.arange(0, len(counts), together)
    rows: np.ndarray = np.add.reduceat(counts, starts, axis=0)
    return np.add.reduceat(rows, starts, axis=1)
