"""The report of a run: its files say what was measured, and its page needs nothing but itself."""

import base64
import csv
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import data_fixtures
import jax
import network_fixtures as fixtures
import numpy as np
import pytest
import trained_fixtures
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image
from run_fixtures import Tiny
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestNeighbors
from test_figures import rows_of_a_run, write_rows

import alexnet_jax
from alexnet_jax import cli, main, settings
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.by_class import Answered, by_class, confusions
from alexnet_jax.pictures import confusion, curves
from alexnet_jax.pictures.report import making
from alexnet_jax.pictures.report.page import Contents, page
from alexnet_jax.run.inputs import write_input

NAMES = ("<b>&\"it's", "a very long name of a class, longer than any line", "왕의 깃발", "$x_1$")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page as a browser reads it: the tags in order, the text, and that all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.style, self._open = "", "", []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def save_run(root: Path, workdir: Path, names: tuple[str, ...], *changes: str) -> ConfigDict:
    """A dataset of such classes, and a run that knows nothing of it; its configuration."""
    data_fixtures.write_folder(root / "images", {"train": 2, "test": 5}, names)
    config = settings.load(str(Tiny(root / "tiny").config))
    small = ["conv2.width=0", "conv3.width=0", "conv4.width=0", "conv5.width=0"]
    small += ["conv1.std=0.02", "fc6.std=0.1", f"classes={len(names)}"]
    config = settings.override(
        config,
        [
            f"data.source=folder:{root / 'images'}",
            f"data.dir={root / 'data'}",
            "data.validation=",
            *("mesh.data=1", "mesh.tower=2"),
            *(f"model.{field}" for field in small),
            *changes,
        ],
    )
    params = jax.tree.map(np.float32, fixtures.random_params(settings.network(config)))
    workdir.mkdir()
    settings.save(config, workdir / "config.json")
    write_input(workdir, np.full((24, 24, 3), 110.0), sorted(names))
    trained_fixtures.save_checkpoint(workdir, params, 3)
    return config


class Made:
    """A report, and what its page was made of."""

    def __init__(self, root: Path) -> None:
        self.workdir = root / "run"
        self.config = save_run(root, self.workdir, NAMES)
        write_rows(self.workdir, rows_of_a_run())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(making, "page", self._page)
            self.scores = making.report_run(self.config, self.workdir)
        self.text = (self.workdir / "report/report.html").read_text(encoding="utf-8")
        self.page = Page(self.text)

    def _page(self, contents: Contents) -> str:
        self.contents = contents
        return page(contents)

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file."""
        with (self.workdir / "report" / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("report"))


def alone(text: str) -> Page:
    """The page, of which nothing comes from elsewhere and every picture has its words."""
    read = Page(text)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    assert not re.search(r"https?:|url\(|@import|srcset|\bon\w+=", text)
    for image in read.all("img"):
        kind, _, data = image["src"].partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert kind == f"data:image/{str(picture.format).lower()}"
        assert "alt" in image
    anchors = {a["href"].removeprefix("#") for a in read.all("a")}
    assert anchors == {section["id"] for section in read.all("section")}
    return read


def test_the_page_needs_nothing_else(made: Made) -> None:
    """It is one file, for a telephone as well, in the light and in the dark."""
    read = alone(made.text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in read.style and "@media print" in read.style
    assert read.tags[0] == ("html", {"lang": "en"})


def test_the_numbers_are_those_of_the_test(made: Made) -> None:
    """By scikit-learn, from what the run says when it is asked for every image."""
    network = alexnet_jax.load(made.workdir)
    cache = made.contents.run.cache
    images, labels = np.asarray(cache.images["test"]), np.asarray(cache.labels["test"])
    given = network.predict(images, ten_views=True)
    expected = confusion_matrix(labels, given.argmax(1), labels=range(4))
    table = made.table("confusion.csv")
    assert [row.pop("class") for row in table] == sorted(NAMES) == list(table[0])
    assert [list(map(int, row.values())) for row in table] == expected.tolist()
    wrong = int(expected.sum() - np.trace(expected))
    one, ten = made.scores
    assert (ten.views, round(ten.top1_error * ten.examples)) == (10, wrong) and 0 < wrong < 20
    rows = made.table("classes.csv")
    assert [int(row["top1_errors"]) for row in rows] == (5 - np.diagonal(expected)).tolist()
    assert {row["views"] for row in rows} == {"10"}
    mistakes = made.table("mistakes.csv")
    assert len(mistakes) == wrong
    assert mistakes[0]["image"].startswith(f"test/{mistakes[0]['class']}/")
    assert float(mistakes[0]["probability_of_answer"]) == pytest.approx(
        max(row.max() for row, label in zip(given, labels) if row.argmax() != label), rel=1e-4
    )
    totals = [f"{score.top1_error:.2%} top-1 error in {score.seen}" for score in (ten, one)]
    assert all(total in made.page.text for total in totals)
    for answer in (*made.contents.mistakes, *made.contents.answers):
        (number,) = (i for i, image in enumerate(images) if (image == answer.picture).all())
        np.testing.assert_allclose(answer.probabilities, given[number], rtol=1e-4)
        assert answer.label == labels[number]


def test_every_section_is_there(made: Made) -> None:
    """Names are text, whatever they hold; kernels by tower; Figure 4; what the run was."""
    read = made.page
    for name in NAMES:
        assert read.text.count(name) > 5
    assert '<b>&"it' not in made.text
    alts = [image["alt"] for image in read.all("img")]
    assert alts.count("") == 4 and "Loss in nats over the epochs" in alts
    labels = [tag["aria-label"] for tag in read.all("div") if tag.get("role") == "img"]
    assert [label[:19] for label in labels] == ["Tower A: 2 kernels,", "Tower B: 2 kernels,"]
    cards = [tag for tag in read.all("figure") if tag.get("class") == "card"]
    assert len(cards) == min(16, len(made.table("mistakes.csv"))) + 8
    near = [tag for tag in read.all("figure") if tag.get("class") in ("query", "same", "other")]
    assert len(near) == 5 * 7
    assert "60,965,224" not in read.text and "4 of 5x5x3" in read.text
    assert f"batch_size={made.config.batch_size}" in read.text
    assert "--mode=evaluate --report" in read.text
    assert [tag.get("class") for tag in read.all("table")] == ["matrix", None]
    assert "3 epochs" not in read.text and "5 epochs, 8 images a step" in read.text


def test_figure_4_is_what_the_network_says(made: Made) -> None:
    """The nearest are those of scikit-learn by the features of all images; whether a neighbour is
    of another class, and which bar is the true one, is marked."""
    cache = made.contents.run.cache
    images, labels = np.asarray(cache.images["test"]), cache.labels["test"]
    features = alexnet_jax.load(made.workdir).features(images, "fc7").astype(np.float64)
    distances, order = NearestNeighbors(n_neighbors=7).fit(features).kneighbors(features)
    kinds = []
    assert made.contents.layer == "fc7" and len(made.contents.neighbours) == 5
    for query, found in made.contents.neighbours:
        (own,) = (i for i, image in enumerate(images) if (image == query.picture).all())
        assert order[own, 0] == own
        assert [distance for _, distance in found] == pytest.approx(distances[own, 1:], rel=1e-3)
        for (shown, _), number in zip(found, order[own, 1:], strict=True):
            assert (shown.picture == images[number]).all()
            assert shown.name == made.contents.names[labels[number]]
        kinds += ["query"]
        kinds += ["same" if labels[i] == labels[own] else "other" for i in order[own, 1:]]
    shown = [tag.get("class") for tag in made.page.all("figure")]
    assert [kind for kind in shown if kind in ("query", "same", "other")] == kinds
    assert {"same", "other"} <= set(kinds)
    true = re.findall("<li class=true>.*?<span>(.*?)</span>", made.text)  # all classes have a bar
    answers = (*made.contents.mistakes, *made.contents.answers)
    assert [unescape(name) for name in true] == [made.contents.names[a.label] for a in answers]


def test_kernels_are_those_of_the_network(made: Made) -> None:
    """Pixel by pixel, tower A first."""
    kernel = made.contents.network.variables["params"]["conv1"]["kernel"]
    tiles = [image["src"] for image in made.page.all("img") if image["alt"] == ""]
    for place, source in enumerate(tiles):
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            drawn = np.asarray(picture.convert("RGB")).astype(float)
        weights = np.asarray(kernel[..., place], float)
        expected = 127.5 + 127.5 * weights / np.abs(weights).max()
        assert np.abs(drawn - expected).max() < 1


def test_a_report_is_made_again_and_nothing_else_replaced(made: Made, tmp_path: Path) -> None:
    """Its own files are; another's are not, and nothing was written then."""
    files = making.written(made.workdir)
    assert all(file.is_file() for file in files)
    assert cli.is_ours(files[0])
    main.check_report(files)
    for name in ("report.html", "classes.csv", "mistakes.png"):
        workdir = tmp_path / name
        (workdir / "report").mkdir(parents=True)
        (workdir / "report" / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} is there already and was not written by"):
            main.check_report(making.written(workdir))
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UserError, match="report is there already and was not written by"):
        main.check_report(making.written(tmp_path))
    main.check_report(making.written(tmp_path / "new"))


def test_the_command(made: Made, tiny: Tiny) -> None:
    """It makes the report again, and says where it is."""
    pages = made.workdir / "report" / "report.html"
    before = pages.stat().st_mtime_ns
    done = tiny.run(f"--workdir={made.workdir}", "--mode=evaluate", "--report")
    assert (done.returncode, done.stderr) == (0, "")
    *_, ten, page_, others = done.stdout.splitlines()
    assert ten == str(made.scores[1])
    assert page_ == f"report: {pages}" and pages.stat().st_mtime_ns > before
    assert others == f"beside it: {', '.join(sorted(making.FILES[1:]))}" and len(others) <= 80
    assert alone(pages.read_text()).text.startswith(made.page.text[:500])


def test_an_older_report_leaves_nothing_behind(tmp_path: Path) -> None:
    """A run without mistakes has no picture of them."""
    making.write(tmp_path, dict.fromkeys(making.FILES, b"old"))
    making.write(tmp_path, {"report.html": b"new"})
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.html"]
    assert (tmp_path / "report/report.html").read_bytes() == b"new"


def test_converted_weights_of_two_classes(tmp_path: Path) -> None:
    """There are no curves, and no five classes; images that are decoded on the way have numbers."""
    changes = ("mesh.tower=1", "data.cache=none")
    config = save_run(tmp_path, tmp_path / "run", ("no", "yes"), *changes)
    making.report_run(config, tmp_path / "run")
    read = alone((tmp_path / "run/report/report.html").read_text())
    assert "no training was recorded in this directory" in read.text
    assert "trainednot here" in read.text and "test 3" in read.text
    assert "top-5 error" not in read.text and "There are none in ten" not in read.text


def test_no_mistakes_and_no_neighbours(made: Made) -> None:
    """It says so."""
    counts = np.diag(np.diagonal(made.contents.counts))
    found = [own._replace(top1_errors=0, confused_images=0) for own in made.contents.found]
    text = page(made.contents._replace(counts=counts, found=found, mistakes=[], neighbours=[]))
    read = alone(text)
    assert "There are none in ten views." in read.text and "taken for" not in read.text
    assert "No image has a wrong answer in ten views." in read.text
    assert "A single image has none." in read.text


def many(classes: int) -> tuple[list[str], np.ndarray, list[Any]]:
    """Names, confusions and rows of so many classes, of two images each; the last has none."""
    rng = np.random.default_rng(classes)
    labels = np.repeat(np.arange(classes - 1), 2)
    answers = np.where(rng.random(len(labels)) < 0.3, rng.integers(0, classes, len(labels)), labels)
    zeros = np.zeros(len(labels))
    found = Answered(10, labels, answers, zeros.astype(int), zeros, zeros)
    counts = confusions(found, classes)
    return [f"class number {i} 깃발" for i in range(classes)], counts, by_class(found, counts)


def test_a_thousand_classes(made: Made, tmp_path: Path) -> None:
    """All are on the page, most of them folded; the matrix is a picture."""
    names, counts, found = many(1000)
    drawn = confusion.draw_confusions(counts, names, tmp_path / "c.png", "ten views").read_bytes()
    some = made.contents._replace(
        names=names, counts=counts, found=found, confusion=drawn, mistakes=[], answers=[]
    )
    text = page(some)
    read = alone(text)
    assert "The other 979 classes" in read.text and "1 class without images" in read.text
    assert all(f"{name}<" in text for name in names[:-1])
    assert not any(tag.get("class") == "matrix" for tag in read.all("table"))
    assert "Confusion matrix of 1,000 classes" in text
    assert len(text) < 3e6


@pytest.mark.parametrize(("classes", "cells"), [(1, 1), (2, 2), (20, 20), (250, 84), (1000, 100)])
def test_the_picture_of_the_matrix(
    classes: int, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell is the share of its row, added up by a loop; the names are those of the places."""
    figures: list[Figure] = []
    monkeypatch.setattr(confusion, "save", lambda figure, path: figures.append(figure))
    counts = np.random.default_rng(0).integers(0, 4, (classes, classes))
    counts[-1] = 0
    names = [f"c{label}" for label in range(classes)]
    confusion.draw_confusions(counts, names, tmp_path / "c.png", "ten views")
    axes = figures[0].axes[0]
    together = -(-classes // 100)
    expected = np.zeros((cells, cells))
    for row in range(classes):
        for column in range(classes):
            expected[row // together, column // together] += counts[row, column]
    totals = expected.sum(1, keepdims=True)
    shares = np.divide(expected, totals, out=np.zeros_like(expected), where=totals > 0)
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), shares)
    shown = [label.get_text() for label in axes.get_yticklabels()]
    places = [round(tick) for tick in axes.get_yticks()]
    assert shown == [names[together * place] for place in places] and len(shown) <= 60
    assert axes.get_xlabel() == "answer in ten views"
    written = {text.get_text() for text in axes.texts}
    assert written == ({f"{n:,}" for n in counts[counts > 0]} if classes <= 20 else set())


def test_one_curve_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lines of one field, in its units, with the last error of each test."""
    figures: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))
    rows = rows_of_a_run()
    curves.draw_curve(rows, "top1_error", tmp_path / "c.png")
    (axes,) = figures[0].axes
    assert len(axes.lines) == 4
    trained = [row for row in rows if row["split"] == "train"]
    expected = [(row["epoch"], 100 * row["top1_error"]) for row in trained]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xydata()), expected)
    legend = axes.get_legend()
    assert legend is not None
    assert "test, ten views: 6.25%" in [text.get_text() for text in legend.get_texts()]


def test_classes_that_share_their_words_are_told_apart() -> None:
    """As two of ImageNet's are."""
    shared = "sunglasses"
    found = making.told_apart(["n04355933", "n04356056", "dog"], [shared, shared, "dog"])
    assert found == [f"{shared} (n04355933)", f"{shared} (n04356056)", "dog"]
