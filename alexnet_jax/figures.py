"""Pictures of a run: the kernels of the first layer (the paper's Figure 3) and learning curves."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alexnet_jax.report import read_rows


def kernels(kernel: np.ndarray, towers: int, workdir: Path) -> Path:
    """Draws the kernels of conv1, tower by tower, into `figures/conv1.png`.

    Every kernel is scaled by its own largest weight; grey is zero.

    Args:
        kernel: (K, K, 3, kernels); the first half of the kernels is the first tower's.
        towers: 1 or 2.
        workdir: of the run.
    """
    per_tower = kernel.shape[-1] // towers
    columns = max(d for d in range(1, 17) if per_tower % d == 0)
    rows = per_tower // columns
    figure = Figure(figsize=(columns * 0.5 + 0.4, towers * (rows * 0.5 + 0.45)), dpi=150)
    for tower in range(towers):
        axes = figure.add_subplot(towers, 1, tower + 1)
        axes.imshow(_mosaic(kernel[..., tower * per_tower :][..., :per_tower], columns))
        axes.set_title(
            f"conv1, tower {'AB'[tower]}" if towers > 1 else "conv1", fontsize=9, loc="left"
        )
        axes.axis("off")
    return _save(figure, workdir / "figures" / "conv1.png")


def _mosaic(kernel: np.ndarray, columns: int) -> np.ndarray:
    """(K, K, 3, N) weights as one picture with values of 0..1."""
    size, count = kernel.shape[0], kernel.shape[-1]
    cell = size + 1
    picture = np.ones((count // columns * cell - 1, columns * cell - 1, 3))
    for i in range(count):
        weights = kernel[..., i]
        top, left = i // columns * cell, i % columns * cell
        scaled = weights / (2 * max(np.abs(weights).max(), 1e-12)) + 0.5
        picture[top : top + size, left : left + size] = scaled
    return picture


def curves(workdir: Path) -> Path:
    """Draws loss and top-1 error over the epochs into `figures/curves.png`."""
    rows = read_rows(workdir / "metrics.jsonl")
    figure = Figure(figsize=(9, 3.4), dpi=120)
    for place, (field, title) in enumerate((("loss", "loss"), ("top1_error", "top-1 error, %"))):
        axes = figure.add_subplot(1, 2, place + 1)
        percent = 100 if field == "top1_error" else 1
        for split, style in (("train", "-"), ("validation", "o-")):
            points = [(r["epoch"], percent * r[field]) for r in rows if r["split"] == split]
            if points:
                name = "training (crops, dropout)" if split == "train" else "validation, one view"
                axes.plot(*zip(*points, strict=True), style, label=name, markersize=3, linewidth=1)
        for row in rows:
            if row["split"] == "test":
                seen = "one view" if row["views"] == 1 else "ten views"
                marker = "s" if row["views"] == 1 else "*"
                axes.plot(row["epoch"], percent * row[field], marker, label=f"test, {seen}")
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return _save(figure, workdir / "figures" / "curves.png")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, bbox_inches="tight")
    return path
