"""The two towers in two processes, and what they send each other, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from alexnet_jax.pictures.saving import save
from experiments.two_machines.report import bytes_of

COLOURS = ("C0", "C1")  # of the towers
WIDE, TALL = 0.74, 0.62  # a layer; the pitch is 1
LANES = (1.05, -1.05)  # the height of each tower


def draw(
    layers: Mapping[str, str], sent: Mapping[str, tuple[int, int]], title: str, path: Path
) -> Path:
    """Draws both towers, layer by layer, with an exchange where there is one.

    Args:
        layers: what each layer of a tower is, by its name.
        sent: bytes an image that a tower sends on the way into a layer, and of gradients back.
        title: a line above it.
        path: of the picture.
    """
    count = len(layers)
    figure = Figure(figsize=(1.13 * (count + 0.4), 4.3), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (y, colour) in enumerate(zip(LANES, COLOURS, strict=True)):
        lane = FancyBboxPatch(
            (-0.52, y - 0.56), count + 0.02, 1.12, "round,pad=0,rounding_size=0.08",
            fc=colour, ec="none", alpha=0.1,
        )  # fmt: skip
        axes.add_patch(lane)
        side = 0.72 if number == 0 else -0.72
        axes.text(
            -0.5, y + side, f"process {number}, tower {'AB'[number]}", color=colour, va="center",
            fontsize=9, weight="bold",
        )  # fmt: skip
        for place, (name, words) in enumerate(layers.items()):
            _layer(axes, place, y, colour, name, words)
            if place and name not in sent:
                _arrow(axes, (place - 1 + WIDE / 2, y), (place - WIDE / 2, y), colour)
    for place, name in enumerate(layers):
        if name in sent:
            _exchange(axes, place, *sent[name])
    axes.text(
        count - 0.5, LANES[0] + 0.72, title, ha="right", va="center", fontsize=8, color="0.35"
    )
    axes.set(xlim=(-0.62, count - 0.4), ylim=(-2.05, 2.05))
    axes.axis("off")
    return save(figure, path)


def _layer(axes: Axes, x: float, y: float, colour: str, name: str, words: str) -> None:
    box = FancyBboxPatch(
        (x - WIDE / 2, y - TALL / 2), WIDE, TALL, "round,pad=0,rounding_size=0.06",
        fc="white", ec=colour, lw=1.2,
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(x, y + 0.13, name, ha="center", va="center", fontsize=9, weight="bold")
    axes.text(x, y - 0.13, words, ha="center", va="center", fontsize=7)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=8, color=colour, lw=1.1, shrinkA=1, shrinkB=1
    )
    axes.add_patch(arrow)


def _exchange(axes: Axes, place: int, forward: int, back: int) -> None:
    """Both towers' arrows into both, and the bytes of one of them."""
    left, right = place - 1 + WIDE / 2, place - WIDE / 2
    for start, colour in zip(LANES, COLOURS, strict=True):
        for end in LANES:
            near = 0.0 if end == start else (0.2 if start > 0 else -0.2)
            _arrow(axes, (left, start - near), (right, end + near), colour)
    words = f"{forward:,} \u2192\n\u2190 {back:,}"
    axes.text(
        place - 0.5, 0, words, ha="center", va="center", fontsize=7.5,
        bbox={"fc": "white", "ec": "0.6", "lw": 0.6, "boxstyle": "round,pad=0.25"},
    )  # fmt: skip


def of_result(result: dict[str, Any], path: Path) -> Path:
    """The picture of a measurement."""
    settings = result["settings"]
    return draw(
        result["layers"],
        bytes_of(result),
        f"bytes an image that each tower sends: forward \u2192, gradients \u2190 "
        f"({settings['config']}, the compiled training step)",
        path,
    )
