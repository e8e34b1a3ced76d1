"""The kernels of the first layer, tower by tower: the paper's Figure 3."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.pictures import colour
from alexnet_jax.pictures.saving import save


def kernels(kernel: np.ndarray, towers: int, workdir: Path) -> Path:
    """Draws the kernels of conv1, tower by tower, into `figures/conv1.png` of a run.

    Args:
        kernel: (K, K, 3, N); the first half of the kernels is the first tower's.
        towers: 1 or 2.
        workdir: of the run.
    """
    return draw_kernels({"conv1": (kernel, towers)}, workdir / "figures" / "conv1.png")


def draw_kernels(runs: Mapping[str, tuple[np.ndarray, int]], path: Path) -> Path:
    """Draws the kernels of conv1 of runs: name to kernels (K, K, 3, N) and number of towers.

    Every kernel is scaled by its own largest weight; grey is zero. The bar below it is its share of
    colour, of its whole width.
    """
    panels = []
    for name, (kernel, towers) in runs.items():
        for tower, part in enumerate(np.split(kernel, towers, axis=-1)):
            panels.append((f"{name}, tower {'AB'[tower]}" if towers > 1 else name, part))
    side, pitch, heading = 0.55, 1.16, 0.34  # inches, sides, inches
    shapes = [_grid(part.shape[-1]) for _, part in panels]
    width = max(columns for _, columns in shapes) * side
    height = sum(rows * pitch * side + heading for rows, _ in shapes) + 0.3
    figure = Figure(figsize=(width, height), dpi=150)
    top = height
    for (title, part), (rows, columns) in zip(panels, shapes, strict=True):
        tall = rows * pitch * side
        top -= heading + tall
        axes = figure.add_axes((0, top / height, columns * side / width, tall / height))
        shares = colour.shares(part)
        for i, share in enumerate(shares):
            _draw_kernel(axes, part[..., i], share, i % columns, i // columns * pitch)
        axes.axis("off")
        axes.set_title(f"{title}: {shares.mean():.0%} colour", fontsize=9, loc="left")
        axes.set(xlim=(0, columns), ylim=(rows * pitch, 0), aspect="auto")
    note = "Each kernel is scaled by its own largest weight. Bar: its share of colour."
    figure.text(0, 0.08 / height, note, fontsize=7, color="0.35")
    return save(figure, path)


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many kernels: 3 and 16 for the 48 of a tower of 2012."""
    rows = math.ceil(count / 16)
    return rows, math.ceil(count / rows)


def scaled(weights: np.ndarray) -> np.ndarray:
    """A kernel, (K, K, 3), as colours from 0 to 1: grey is zero, 0 or 1 its own largest weight."""
    return weights / (2 * max(np.abs(weights).max(), 1e-12)) + 0.5


def _draw_kernel(axes: Axes, weights: np.ndarray, share: float, left: float, top: float) -> None:
    """One kernel, (K, K, 3), and its share of colour below it; in sides of a kernel."""
    wide = 0.93
    axes.imshow(
        scaled(weights), extent=(left, left + wide, top + wide, top), interpolation="nearest"
    )
    axes.barh(top + 1.02, wide, 0.05, left, color="0.88")
    axes.barh(top + 1.02, wide * share, 0.05, left, color="0.2")
