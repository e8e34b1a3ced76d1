"""Figures become files."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from alexnet_jax import __version__
from alexnet_jax.files import whole

MADE_BY = f"alexnet_jax {__version__}"  # in every picture: only such a one may be replaced

# Fonts of the usual systems that have the letters which matplotlib's own lacks.
FALLBACKS = (
    "Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans KR", "NanumGothic",
    "UnDotum", "Malgun Gothic", "Apple SD Gothic Neo", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "Microsoft YaHei", "Hiragino Sans", "Arial Unicode MS",
)  # fmt: skip


def save(figure: Figure, path: str | Path, *, tight: bool = True) -> Path:
    """Writes a figure in the format that the file's name asks for; makes the folder if need be.

    Args:
        figure: to be drawn.
        path: of the picture. An older one is replaced, when the new one is complete.
        tight: cut off what is empty around it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    find_letters(figure.findobj(Text))
    form = path.suffix.lower().removeprefix(".")
    mark: dict[str, Any] = {"metadata": {"Creator": MADE_BY}}  # of a PDF or an SVG
    if form == "png":
        mark = {"metadata": {"Software": MADE_BY}}
    elif form in ("jpg", "jpeg"):
        mark = {"pil_kwargs": {"comment": MADE_BY}}
    with whole(path, replace=True) as file, boxes_for_letters():
        figure.savefig(file, format=form, **mark, bbox_inches="tight" if tight else None)
    return path


@contextlib.contextmanager
def boxes_for_letters() -> Iterator[None]:
    """Lets a letter that no font here has be drawn, or measured, as a box without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def find_letters(texts: Iterable[Text]) -> None:
    """Lets names such as 왕의 깃발 have the letters of any font that is installed."""
    foreign = [text for text in texts if not text.get_text().isascii()]
    if foreign:
        there = [family for family in FALLBACKS if family in _families()]
        for text in foreign:
            text.set_fontfamily([*dict.fromkeys([*text.get_fontfamily(), *there])])


@functools.cache
def _families() -> set[str]:
    """The fonts that are installed, also since matplotlib last made its list of them."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # of weights, at length
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with contextlib.suppress(Exception):  # what is no font after all
                font_manager.fontManager.addfont(path)
    return set(font_manager.get_font_names())
