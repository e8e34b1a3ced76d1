"""A figure on which everything has its place in pixels, from the top left."""

import unicodedata
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from alexnet_jax.pictures.saving import boxes_for_letters, find_letters, save

DPI = 100  # pixels in an inch
BAR = 17  # pixels a bar
TRUE, OTHER = "#e8a09a", "#a9c3e6"  # the bars: of the label that matters, of another
INSIDE = 3.2  # pixels between a bar's ends and what is written in it
LETTERS = 25  # of a class name at most


class Sheet:
    """A figure of a size in pixels."""

    def __init__(self, width: int, height: int) -> None:
        """An empty one."""
        self._width, self._height = width, height
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self._canvas = FigureCanvasAgg(self._figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without ticks."""
        bottom = self._height - top - height
        box = (left / self._width, bottom / self._height, width / self._width)
        return self._figure.add_axes((*box, height / self._height), xticks=(), yticks=())

    def picture(self, left: int, top: int, picture: np.ndarray, side: int) -> Axes:
        """A picture (S, S, 3), brought to the size that it is shown in."""
        axes = self.axes(left, top, side, side)
        axes.imshow(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
        axes.spines[:].set_visible(False)
        return axes

    def bars(
        self,
        left: int,
        top: int,
        width: int,
        probabilities: np.ndarray,
        shown: Sequence[int],
        classes: Sequence[str],
        red: int | None,
    ) -> Axes:
        """A bar for each of some classes, with its name and probability.

        Args:
            left, top, width: of the axes; a bar has `BAR` pixels.
            probabilities: of all classes.
            shown: the labels of those that have a bar, from the top.
            classes: what each label means, in words.
            red: the label whose bar is red, as that of the true one is in the paper's Figure 4.
        """
        axes = self.axes(left, top, width, BAR * len(shown))
        letters = LETTERS * width // 160
        for line, label in enumerate(shown):
            probability = probabilities[label]
            axes.barh(line, probability, color=TRUE if label == red else OTHER, height=0.88)
            style: dict[str, Any] = {"fontsize": 7, "va": "center_baseline"}
            ends = INSIDE / width, 1 - INSIDE / width
            share = axes.text(ends[1], line, f"{probability:.0%}", ha="right", **style)
            room = width - 4 * INSIDE - self._width_of(share)
            name = axes.text(ends[0], line, short(classes[label], letters), **style)
            for fewer in range(letters - 1, 0, -1):
                if self._width_of(name) <= room:
                    break
                name.set_text(short(classes[label], fewer))
        axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color="#888888")
        return axes

    def _width_of(self, text: Text) -> float:
        """In pixels."""
        find_letters([text])
        with boxes_for_letters():
            extent = text.get_window_extent(self._canvas.get_renderer())
        return float(extent.width)

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        """Text whose first line begins there, in the style of matplotlib's `Text`."""
        place = left / self._width, 1 - top / self._height
        self._figure.text(*place, plain(text), va="top", **style)

    def save(self, path: str | Path) -> None:
        """Writes the figure in the format that its name asks for."""
        save(self._figure, path, tight=False)


def short(name: str, letters: int = LETTERS) -> str:
    """A name that fits into a line, and whose dollars are no formula to matplotlib."""
    return plain(clipped(name, letters))


def clipped(name: str, letters: int) -> str:
    """A name in one line of so many letters at most; those of Korean and its like count twice."""
    name = " ".join(name.split())
    ends = list(accumulate(1 + (unicodedata.east_asian_width(one) in "WF") for one in name))
    return name if not name or ends[-1] <= letters else name[: bisect(ends, letters - 1)] + "…"


def plain(text: str) -> str:
    """A text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
