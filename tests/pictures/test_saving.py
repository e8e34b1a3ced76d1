"""Names in pictures: cut to a line, and in letters that some font has."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from alexnet_jax.pictures import saving
from alexnet_jax.pictures.sheet import Sheet, short


@pytest.fixture
def serif(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A font that stands for one of Korean, installed after matplotlib made its list; and a file
    that is no font."""
    name, manager = "DejaVu Serif", font_manager.fontManager
    path = font_manager.findfont(name)
    others = [font for font in manager.ttflist if font.name != name]
    (tmp_path / "broken.ttf").write_text("no font")
    monkeypatch.setattr(manager, "ttflist", others)
    monkeypatch.setattr(saving, "FALLBACKS", ("of another system", name))
    found = [path, str(tmp_path / "broken.ttf"), others[0].fname]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    saving._families.cache_clear()
    yield name
    saving._families.cache_clear()


def test_letters_that_the_usual_font_lacks(serif: str, tmp_path: Path) -> None:
    """Are asked of another one, which is looked for where they are needed."""
    figure = Figure()
    axes = figure.subplots()
    axes.set_yticks([0, 1], ["flag", "왕의 깃발"])
    title = axes.set_title("flag")
    before = title.get_fontfamily()
    saving.save(figure, tmp_path / "flag.png")
    plain, korean = axes.get_yticklabels()
    assert korean.get_fontfamily() == [*before, serif]
    assert plain.get_fontfamily() == title.get_fontfamily() == before


def test_letters_that_no_font_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Are boxes, without a warning, where a name is measured as well as where it is drawn."""
    monkeypatch.setattr(saving, "FALLBACKS", ())
    page = Sheet(200, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page.bars(0, 0, 160, np.ones(1), [0], ["왕의 깃발"], None)
        page.save(tmp_path / "flag.png")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ""),
        ("a" * 25, "a" * 25),
        ("a" * 26, "a" * 24 + "…"),
        ("깃" * 12, "깃" * 12),
        ("깃" * 13, "깃" * 12 + "…"),
        ("a  b\n$c", r"a b \$c"),
    ],
)
def test_a_name_fits_into_a_line(name: str, expected: str) -> None:
    """Of 25 letters, or of half as many that are twice as wide."""
    assert short(name) == expected
