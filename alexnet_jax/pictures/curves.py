"""Learning curves of a run, or of several: loss and top-1 error over the epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from alexnet_jax.pictures.saving import save
from alexnet_jax.run.metrics import Row, read_rows


class Kind(NamedTuple):
    """Rows of `metrics.jsonl` that belong together, and how they are drawn."""

    split: str
    views: int
    label: str
    style: dict[str, Any]

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """Those of this kind."""
        return [row for row in rows if (row["split"], row["views"]) == (self.split, self.views)]


KINDS = (
    Kind("train", 1, "training (crops, dropout)", {"lw": 0.8}),
    Kind("validation", 1, "validation, one view", {"lw": 1, "marker": "o", "ms": 3}),
    Kind("test", 1, "test, one view", {"lw": 0, "marker": "s", "ms": 9, "fillstyle": "none"}),
    Kind("test", 10, "test, ten views", {"lw": 0, "marker": "*", "ms": 6}),
)

FIELDS = {"loss": ("loss, nats", 1), "top1_error": ("top-1 error, %", 100)}


def curves(workdir: Path) -> Path:
    """Draws loss and top-1 error over the epochs into `figures/curves.png` of a run."""
    rows = read_rows(workdir / "metrics.jsonl")
    return draw_curves({workdir.name: rows}, workdir / "figures" / "curves.png")


def draw_curves(runs: Mapping[str, Sequence[Row]], path: Path) -> Path:
    """Draws loss and top-1 error of runs: name to rows of `metrics.jsonl`.

    One run has a colour for each kind of row, several have a colour each. An axis is logarithmic
    where its numbers span more than a factor of five.
    """
    count = len(runs)
    many = list(colormaps["turbo"](np.linspace(0.05, 0.95, count)))
    colours = many if count > 10 else [f"C{i}" for i in range(count)]
    figure = Figure(figsize=(9, 3.4), dpi=120)
    places = figure.subplots(1, 2)
    for axes, field in zip(places, FIELDS, strict=True):
        _draw_field(axes, field, runs, colours)
    handles = _legend(runs, colours)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return save(figure, path)


def draw_curve(rows: Sequence[Row], field: str, path: Path) -> Path:
    """Draws one field of one run, in a picture that can be read on a telephone.

    Args:
        rows: of `metrics.jsonl`.
        field: of `FIELDS`.
        path: of the picture.
    """
    figure = Figure(figsize=(4.6, 3.4), dpi=200)
    axes, runs, colours = figure.subplots(), {"": rows}, ["C0"]
    _draw_field(axes, field, runs, colours)
    handles = _legend(runs, colours)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.1, -0.15), frameon=False)
    return save(figure, path)


def _draw_field(
    axes: Axes, field: str, runs: Mapping[str, Sequence[Row]], colours: Sequence[Any]
) -> None:
    """One field of all rows over the epochs, each run in its colour, or each kind of a single."""
    title, scale = FIELDS[field]
    for shade, rows in zip(colours, runs.values(), strict=True):
        for number, kind in enumerate(KINDS):
            own = kind.of(rows)
            style = {"color": f"C{number}" if len(runs) == 1 else shade, **kind.style}
            if len(own) == 1:  # a line of one point would not be seen
                style.setdefault("marker", ".")
            axes.plot([r["epoch"] for r in own], [scale * r[field] for r in own], **style)
    _scale(axes)
    axes.set_title(f"{title}{' (log scale)' * (axes.get_yscale() == 'log')}", fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


def _scale(axes: Axes) -> None:
    """Logarithmic if need be, with plain numbers; from zero on if not."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    if values.size and 0 < 5 * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)


def _legend(runs: Mapping[str, Sequence[Row]], colours: Sequence[Any]) -> list[Line2D]:
    """What the lines are, with the last error of each test."""
    handles = []
    for number, kind in enumerate(KINDS):
        own = [row for rows in runs.values() for row in kind.of(rows)]
        label, colour = kind.label, "0.2"
        if len(runs) == 1:
            colour = f"C{number}"
            if own and kind.split == "test":
                label += f": {own[-1]['top1_error']:.2%}"
        if own:
            handles.append(Line2D([], [], color=colour, label=label, **kind.style))
    if len(runs) > 1:
        for colour, (name, rows) in zip(colours, runs.items(), strict=True):
            tested = KINDS[-1].of(rows)
            error = f": {tested[-1]['top1_error']:.2%} in ten views" if tested else ""
            handles.append(Line2D([], [], color=colour, lw=4, label=f"{name}{error}"))
    return handles
