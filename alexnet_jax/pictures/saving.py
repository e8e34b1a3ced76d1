"""Figures become files."""

import functools
import logging
import warnings
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from matplotlib import font_manager, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from alexnet_jax import __version__
from alexnet_jax.files import whole

MADE_BY = f"alexnet_jax {__version__}"  # in every picture: only such a one may be replaced

LETTERS = 25  # of a name

# Fonts with the letters of Korean, Japanese and Chinese, of which matplotlib brings none: those of
# Debian, macOS and Windows. The first that is there is asked for what the usual font lacks.
WORLD = (
    "Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "NanumBarunGothic",
    "Apple SD Gothic Neo", "Malgun Gothic", "Arial Unicode MS", "Unifont",
)  # fmt: skip


@functools.cache
def fonts() -> list[str]:
    """The usual fonts, and one for the letters that they lack, if there is one."""
    manager = font_manager.fontManager
    new = {*font_manager.findSystemFonts()} - {font.fname for font in manager.ttflist}
    for path in sorted(new):  # installed after matplotlib made its list, which it keeps for ever
        with suppress(OSError, RuntimeError):  # one that it cannot use
            manager.addfont(path)
    there = {font.name for font in manager.ttflist}
    logging.getLogger(font_manager.__name__).setLevel(logging.ERROR)  # one without bold is no news
    return [*rcParams["font.family"], *[name for name in WORLD if name in there][:1]]


def _wide(letter: str) -> bool:
    """Whether a letter takes two places, as those of Korean do."""
    return east_asian_width(letter) in "WF"


def short(name: str) -> str:
    """A name that fits into a line, where Korean letters take two places; its dollars are no
    formula to matplotlib."""
    name = " ".join(name.split())
    ends = list(accumulate(1 + _wide(letter) for letter in name))
    if ends and ends[-1] > LETTERS:
        name = name[: sum(end < LETTERS for end in ends)] + "…"
    return name.replace("$", r"\$")


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
    for text in figure.findobj(Text):
        if isinstance(text, Text) and any(map(_wide, text.get_text())):
            text.set_fontfamily(fonts())
    form = path.suffix.lower().removeprefix(".")
    mark: dict[str, Any] = {"metadata": {"Creator": MADE_BY}}  # of a PDF or an SVG
    if form == "png":
        mark = {"metadata": {"Software": MADE_BY}}
    elif form in ("jpg", "jpeg"):
        mark = {"pil_kwargs": {"comment": MADE_BY}}
    with whole(path, replace=True) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is drawn as a box
        figure.savefig(file, format=form, **mark, bbox_inches="tight" if tight else None)
    return path
