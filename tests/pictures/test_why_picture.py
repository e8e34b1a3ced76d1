"""The picture of an explanation shows what was found, and so does the page."""

import re
from pathlib import Path

import asked_fixtures
import cv2
import numpy as np
import pytest
from asked_fixtures import CLASSES, network, places_of, squares
from PIL import Image

import alexnet_jax
from alexnet_jax import figures
from alexnet_jax.evaluation import why
from alexnet_jax.evaluation.album import Neighbour
from alexnet_jax.pictures import page, sheet
from alexnet_jax.pictures import why as drawing
from alexnet_jax.pictures.saving import boxes_for_letters

LONG = "왕의 깃발 & <b>a very long name</b> of $one$ class, ${1 + 1}, and so on and on"


@pytest.fixture(scope="module")
def found() -> why.Explanation:
    """Of the small network's answer."""
    return why.explain(network(), squares(1))


def made(classes: int = 12, towers: int = 2) -> why.Explanation:
    """An explanation by hand: the answer is lost at one place, and one pixel is salient."""
    probabilities = np.zeros(classes)
    probabilities[:2] = 0.75, 0.25
    under = np.full((3, 3), 0.75)
    under[2, 1] = 0.05
    saliency = np.zeros((40, 40), np.float32)
    saliency[5, 30] = 2
    rng = np.random.default_rng(0)
    maps = [np.maximum(rng.normal(0, 1, (9, 9, 8)), 0).astype(np.float32) for _ in range(towers)]
    maps[0][..., 3] = 0
    maps[0][..., 5] = 7
    units = [np.arange(14, dtype=np.float32) for _ in range(towers)]
    return why.Explanation(
        np.full((40, 40, 3), 100, np.uint8),
        probabilities,
        0,
        why.Occlusion(16, np.array([0, 12, 24]), under),
        saliency,
        np.tile(probabilities[::-1], (towers if towers > 1 else 0, 1)),
        {"conv1": maps, "fc6": units},
    )


def test_the_brightest_is_where_most_is_lost_and_the_white_pixel_is_salient() -> None:
    """Place by place."""
    picture = drawing.occlusion(made()).astype(int).sum(-1)
    assert picture[24 + 8, 12 + 8] > picture[4, 4] + 100
    outline = np.argwhere(picture == 3 * 255)  # of the square that takes most
    assert outline.min(0).tolist() == [24, 12] and outline.max(0).tolist() == [39, 27]
    assert len(outline) == 4 * 15
    white = drawing.saliency(made())
    assert (white[5, 30] == 255).all() and white.sum() == 3 * 255
    said = drawing.sentences(made(), CLASSES)
    assert "5.0% (bright) to 75.0% (dark)" in said["occlusion"]
    assert "Most is lost 20 from the left, 32 from the top" in said["occlusion"]


def test_the_strongest_maps_are_those_of_the_largest_mean() -> None:
    """Numbered among those of both towers; what is nowhere above zero does not respond."""
    values = made().activations["conv1"]
    first, second = (drawing.strongest(own, tower, 3) for tower, own in enumerate(values))
    assert first.numbers[0] == 5 and (first.maps[0] == 7).all() and first.responding == 7
    expected = 8 + np.argsort(-values[1].mean((0, 1)))[:3]
    assert second.numbers == expected.tolist() and second.total == second.responding == 8
    np.testing.assert_array_equal(second.maps[0], values[1][..., expected[0] - 8])
    assert drawing.scale(values) == (0, 7)
    assert drawing.folded(np.arange(14)).shape == (7, 2)


def test_the_picture(found: why.Explanation, tmp_path: Path) -> None:
    """The three panels side by side, and the bar of the answer in red, once for each question."""
    path = tmp_path / "why.png"
    drawing.draw(found, CLASSES, "photo.jpg", path)
    panels = {"seen": found.seen, "o": drawing.occlusion(found), "s": drawing.saliency(found)}
    places = [places_of(panel, drawing.PANEL, path) for panel in panels.values()]
    (top, left), *others = [place for place, *_ in places]
    step = drawing.PANEL + drawing.GAP
    assert others == [(top, left + step), (top, left + 2 * step)]
    red = asked_fixtures.colour_share(path, sheet.TRUE)
    shares = [found.probabilities[found.label]]
    shares += [own[found.label] for own in found.silenced if found.label in np.argsort(-own)[:5]]
    full = drawing.PANEL * sheet.BAR * 0.88
    assert red == pytest.approx(sum(shares) * full, rel=0.35)  # letters lie over it


@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("classes", [2, 1000])
def test_names_of_any_kind(classes: int, towers: int, tmp_path: Path) -> None:
    """Two classes or a thousand, of long names in letters that no font has; one tower says so."""
    path = tmp_path / "why.png"
    one = made(classes, towers)
    drawing.draw(one, [LONG] * classes, f"{LONG}.jpg", path)
    with Image.open(path) as image:
        assert image.width == drawing.WIDTH
        edge = np.asarray(image.convert("RGB"))[:, -4:]
    assert (edge == 255).all()  # nothing runs over it
    assert ("one tower" in drawing.sources(one)) is (towers == 1)


def test_names_are_cut_to_their_width() -> None:
    """A Korean letter is as wide as two; blanks are one, dollars no formula."""
    assert sheet.clipped("왕의 깃발", 9) == "왕의 깃발"
    assert sheet.clipped("왕의 깃발", 8) == "왕의 깃…" and sheet.clipped("abcdef", 5) == "abcd…"
    assert sheet.clipped(" a  b\n", 3) == "a b" and sheet.clipped("", 1) == ""
    assert sheet.short("$a$") == r"\$a\$"


def test_the_page(found: why.Explanation) -> None:
    """Every part of it, with names as text, and nothing that is fetched from anywhere."""
    near = [Neighbour(squares(1)[0], LONG, 1.5)]
    classes = [LONG if label == found.label else name for label, name in enumerate(CLASSES)]
    html = page.explained(LONG, found, classes, near, "9 images of the split test")
    assert "<b>a very" not in html and "&lt;b&gt;a very long name" in html and "왕의 깃발" in html
    sources = re.findall(r'src="([^"]*)"', html)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in html and "url(" not in page.STYLE
    for word in ("Without tower A", "Without tower B", "conv5", "fc7", "Zeiler", "1.5"):
        assert word in html
    answer = html[html.index("The answer") : html.index("Without tower A")]
    assert answer.count('class="bar') == 5 and answer.count('class="bar asked') == 1
    none = page.explained("a.jpg", made(towers=1), CLASSES, [], "")
    assert "Without tower" not in none and "Nearest" not in none and "one tower" in none
    assert "&lt;i&gt;" in page.refused("<i>") and "<i>" not in page.refused("<i>")


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`figures --photo` writes one picture, says the answers, and replaces nothing unasked."""
    run = tmp_path / "run"
    monkeypatch.setattr(alexnet_jax, "load", {run: network()}.get)
    photo = tmp_path / "a cat.png"
    cv2.imwrite(str(photo), cv2.cvtColor(squares(1)[0], cv2.COLOR_RGB2BGR))
    line = [f"--workdir={run}", f"--photo={photo}"]
    assert figures.main(line) == 0
    out = capsys.readouterr().out
    picture = run / "figures" / "why-a cat.png"
    assert out.endswith(f"wrote {picture}\n") and "without tower B\n" in out
    assert max(map(len, out.replace(str(tmp_path), "").splitlines())) <= 80
    assert sorted(path.name for path in (run / "figures").iterdir()) == [picture.name]
    with Image.open(picture) as image:
        assert image.width == drawing.WIDTH
    for more, said in (([], "is there already: give --overwrite"), ([f"--out={photo}"], "a file")):
        with pytest.raises(SystemExit):
            figures.main([*line, *more])
        assert said in capsys.readouterr().err
    assert figures.main([*line, "--overwrite"]) == 0
    with pytest.raises(SystemExit):
        figures.main([f"--workdir={run},{tmp_path}", f"--photo={photo}"])
    assert "--photo asks one network" in capsys.readouterr().err
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(SystemExit):
        figures.main([f"--workdir={run}", f"--photo={tmp_path}/no.png"])
    assert "no.png': not an image" in capsys.readouterr().err


@pytest.mark.parametrize("width", [160, 240])
def test_a_name_ends_before_its_number(width: int) -> None:
    """Letters are of many widths; names that have room are whole."""
    classes = [
        "W" * 40,
        "Pembroke, Pembroke Welsh corgi " * 2,
        "왕의 깃발 " * 9,
        "tabby",
        "왕의 깃발",
    ]
    page = sheet.Sheet(width, 200)
    axes = page.bars(0, 0, width, np.ones(5), range(5), classes, None)
    with boxes_for_letters():
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        shares = [text.get_window_extent() for text in axes.texts if text.get_text() == "100%"]
    names = [text.get_text() for text in axes.texts if text.get_text() != "100%"]
    assert len(shares) == len(names) == 5 and names[3:] == classes[3:]
    assert all(boxes[name].x1 + 3 < share.x0 for name, share in zip(names, shares, strict=True))
    room = max(boxes[name].x1 for name in names[:3])
    assert room > 0.7 * shares[0].x0 and all(name.endswith("…") for name in names[:3])
