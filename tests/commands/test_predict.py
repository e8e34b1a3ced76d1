"""Answers for photos: the probabilities, what happens to files that are none, and the program."""

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import data_fixtures
import jax
import network_fixtures as fixtures
import numpy as np
import pytest
from asked_fixtures import (
    CLASSES,
    CROP,
    SIZE,
    colour_share,
    network,
    places_of,
    program,
    squares,
    write_run,
)
from PIL import Image

from alexnet_jax import predict
from alexnet_jax.data import photos as photo_files
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import answers as answers_module
from alexnet_jax.evaluation import trained_network
from alexnet_jax.evaluation.answers import Answer, answers
from alexnet_jax.model import AlexNet
from alexnet_jax.pictures import figure4, sheet


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """35 PNG files in the folders of two classes and in one that is none, and three bad files."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(35):
        folder = root / ("b", "d", "else/where")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.png").write_bytes(data_fixtures.encode(squares(35)[i], "PNG"))
    whole = data_fixtures.encode(squares(35)[0], "JPEG")
    (root / "a_text.jpg").write_text("not an image")
    (root / "b" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "c_gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "cmyk.jpg").write_bytes(data_fixtures.encode(squares(35)[0], "JPEG", "CMYK"))
    (root / "notes.txt").write_text("left out")
    (root / ".hidden.png").write_bytes(whole)
    return root


def run(monkeypatch: pytest.MonkeyPatch, *files: object, **values: Any) -> int:
    """The command in this process, with the network that is compiled already."""
    given = {"workdir": "W", "figure": None, "json": False, "ten_views": False, "best": False}
    given["overwrite"] = False
    monkeypatch.setattr(trained_network, "load", lambda workdir, best: network())
    return predict.answer(Namespace(files=[str(file) for file in files], **(given | values)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """By its definition, in float64."""
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(-1, keepdims=True)


# --- probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "top", "left", "flip"), [(0, 4, 4, False), (2, 0, 8, False), (8, 8, 0, True)]
)
def test_logits_are_those_of_the_network_on_a_crop_cut_by_hand(view, top, left, flip) -> None:
    """The centre, a corner and a mirrored corner, minus the centre of the mean image."""
    net = network()
    crops = squares(3)[:, top : top + CROP, left : left + CROP].astype(np.float64)
    crops = crops[:, :, ::-1] if flip else crops
    seen = crops - np.asarray(net.viewer.mean_image, np.float64)[4 : 4 + CROP, 4 : 4 + CROP]
    model = AlexNet(fixtures.small_network())
    expected = jax.jit(model.apply)({"params": net.variables["params"]}, seen.astype(np.float32))
    np.testing.assert_allclose(net.logits(squares(3), view), expected, rtol=2e-4, atol=2e-4)


def test_probabilities_are_the_softmax_in_float64() -> None:
    """In one view, and averaged over ten."""
    net, pictures = network(), squares(3)
    expected = softmax(net.logits(pictures))
    np.testing.assert_allclose(net.predict(pictures), expected, rtol=1e-6)
    views = np.mean([softmax(net.logits(pictures, view)) for view in range(10)], axis=0)
    assert np.abs(views - expected).max() > 1e-3
    np.testing.assert_allclose(net.predict(pictures, ten_views=True), views, rtol=1e-6)


def test_batches_are_all_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images, two at a time: the last batch is filled, and nothing of that comes out."""
    shapes = []

    def corner(images: jax.Array) -> jax.Array:
        shapes.append(images.shape[0])
        return images[:, 0, 0, :1]

    found = np.concatenate(list(network().in_batches(corner, squares(5), batch_size=2)))
    np.testing.assert_array_equal(found, squares(5)[:, 0, 0, :1])
    assert shapes == [2, 2, 2]


def test_top_is_the_five_most_probable() -> None:
    """All of fewer classes; of equals the first."""

    def top(probabilities: list[float], classes: str) -> list[tuple[str, float]]:
        return Answer("a.png", "", squares(1)[0], np.array(probabilities)).top(classes)

    found = top([0.1, 0.3, 0.05, 0.3, 0.2, 0.05], "abcdef")
    assert [name for name, _ in found] == ["b", "d", "e", "a", "c"]
    assert top([0.25, 0.75], "ab") == [("b", 0.75), ("a", 0.25)]


def test_labels_are_numbers_where_words_are_the_same() -> None:
    """`--json` tells ImageNet's two 'sunglasses' apart."""
    answer = Answer("a.png", "", squares(1)[0], np.array([0.1, 0.5, 0.4]))
    assert answer.numbers(["n04355933", "n04356056", "cat"]) == {
        "labels": [1, 2, 0],
        "wnids": ["n04356056", None, "n04355933"],
    }
    assert answer.numbers(["ant", "bee", "cat"]) == {"labels": [1, 2, 0]}
    assert answer._replace(problem="empty").numbers([]) == {}


# --- files ----------------------------------------------------------------------------------------


def test_files_in_folders_are_found_in_order(photos: Path, tmp_path: Path) -> None:
    """Sorted, below all folders; no hidden ones, no other kinds; a named file whatever its name."""
    (tmp_path / "empty").mkdir()
    notes = str(photos / "notes.txt")
    paths = [notes, str(photos), str(tmp_path / "empty"), str(tmp_path / "no.jpg")]
    files, problems = photo_files.find_images(paths)
    assert files[0] == notes and files[1:] == sorted(files[1:])
    suffixes = (".png", ".jpg")
    there = [p for p in photos.rglob("*") if p.suffix in suffixes and p.name[0] != "."]
    left_out = photo_files.LeftOut()
    assert photo_files.find_images(paths, left_out) == (files, problems)
    assert left_out == {".txt": 1}
    assert {*files[1:]} == {*map(str, there)} and len(files) == 1 + 39
    assert problems == {
        paths[2]: "the folder holds no image files",
        paths[3]: "No such file or directory",
    }


def test_answers_are_those_of_each_file(photos: Path) -> None:
    """In the order of the files, over a batch's end, with bad ones between."""
    files, _ = photo_files.find_images([str(photos)])
    found = list(answers(network(), files))
    assert [answer.file for answer in found] == files
    reasons = {Path(answer.file).name: answer.problem for answer in found if answer.problem}
    assert reasons.keys() == {"a_text.jpg", "cut.jpg", "c_gone.jpg"}
    assert reasons["a_text.jpg"].startswith("not an image")
    assert reasons["cut.jpg"].startswith("truncated")
    assert reasons["c_gone.jpg"] == "No such file or directory"
    good = [answer for answer in found if not answer.problem]
    assert len(good) == 36
    for answer in good:
        if answer.file.endswith(".png"):
            number = int(Path(answer.file).stem)
            np.testing.assert_array_equal(answer.picture, squares(35)[number])
        assert answer.label == {"b": 1, "d": 3}.get(Path(answer.file).parent.name)
        expected = softmax(network().logits(answer.picture[None]))[0]
        np.testing.assert_allclose(answer.probabilities, expected, rtol=1e-3)


def test_no_more_than_two_batches_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are."""
    asked: list[str] = []
    monkeypatch.setattr(photo_files, "_read", lambda file, size: asked.append(file) or "no")
    endless = (str(i) for i in iter(int, 1))
    batches = photo_files.read_images(endless, SIZE, 4)
    for count in (1, 2, 3):
        assert len(next(batches)) == 4
        assert 4 * count <= len(asked) <= 4 * (count + 1)
    batches.close()


def test_the_label_is_the_folders_name() -> None:
    """By the name in the dataset, or by the words; words never hide a name."""
    labels = photo_files.labels_by_name(["n01", "cat", "n03"], ["cat", "lion", "dog"])
    assert photo_files.folder_label("x/n03/1.jpg", labels) == 2
    assert photo_files.folder_label("x/dog/1.jpg", labels) == 2
    assert photo_files.folder_label("x/cat/1.jpg", labels) == 1
    assert photo_files.folder_label("dog/x/1.jpg", labels) is None
    # Two of ImageNet's classes are called so: the folder could mean either.
    labels = photo_files.labels_by_name(["n04355933", "n04356056"], ["sunglasses"] * 2)
    assert photo_files.folder_label("x/sunglasses/1.jpg", labels) is None
    assert photo_files.folder_label("x/n04356056/1.jpg", labels) == 1
    # As in lists of names that people pass around.
    labels = photo_files.labels_by_name(["crane", "dog", "crane"], ["crane", "dog", "crane"])
    assert labels == {"dog": 1}


# --- the program ----------------------------------------------------------------------------------


def test_what_is_printed(monkeypatch, capsys, photos: Path) -> None:
    """A block for each file; on stderr the reasons, and how long it took."""
    good = photos / "b" / "00.png"
    assert run(monkeypatch, good) == 0
    captured = capsys.readouterr()
    name, *lines = captured.out.splitlines()
    assert name == str(good) and len(lines) == 5
    probabilities = network().predict([good])[0]
    order = np.argsort(-probabilities)[:5]
    assert lines == [f"  {probabilities[i]:6.1%}  {CLASSES[i]}" for i in order]
    (line,) = captured.err.splitlines()
    assert line.startswith("1 image in one view, ") and "ms each" in line and "compiling" in line
    assert run(monkeypatch, photos / "a_text.jpg", good, ten_views=True) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{good}\n")
    assert captured.err.startswith(f"skipped {photos / 'a_text.jpg'}: not an image")
    assert "1 image in ten views" in captured.err


def test_a_class_of_any_name_takes_one_line(capsys) -> None:
    """Whatever a file system allows in the name of a folder."""
    name = "two\nlines" + b"\xe4".decode(errors="surrogateescape")
    answers_module.print_block("a.jpg", [(name, 0.5)])
    assert capsys.readouterr().out == "a.jpg\n   50.0%  two\\nlines\ufffd\n"


def test_json(monkeypatch, capsys, photos: Path, tmp_path: Path) -> None:
    """A line for every file, whatever its name, and nothing else on stdout."""
    strange = tmp_path / "a \udcff\n\"'é.png"
    shutil.copy(photos / "b" / "00.png", strange)
    assert run(monkeypatch, photos, strange, tmp_path / "no", json=True) == 1
    captured = capsys.readouterr()
    said = {a["file"]: a for a in map(json.loads, captured.out.splitlines())}
    assert len(said) == 39 + 2
    assert said[str(tmp_path / "no")]["error"] == "No such file or directory"
    assert said[str(photos / "a_text.jpg")]["error"].startswith("not an image")
    top5 = said[str(strange)]["top5"]
    assert len(top5) == 5 and said[str(photos / "b" / "00.png")]["top5"] == top5
    probabilities = network().predict([strange])[0]
    expected = {
        name: pytest.approx(probabilities[CLASSES.index(name)], rel=1e-3) for name, _ in top5
    }
    assert dict(top5) == expected
    assert said[str(strange)]["labels"] == [CLASSES.index(name) for name, _ in top5]
    assert captured.err.count("skipped") == 4


def test_nothing_that_can_be_used(monkeypatch, capsys, tmp_path: Path) -> None:
    """No network is restored for that."""
    assert run(monkeypatch, tmp_path, workdir="/nowhere") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"skipped {tmp_path}: the folder holds no image files\n"


def test_the_figure(monkeypatch, capsys, photos: Path, tmp_path: Path) -> None:
    """Sixteen panels of the images that can be used, and it says so."""
    path = tmp_path / "figure.png"
    figure4.draw_answers([Answer("", "", squares(1)[0], np.eye(12)[0])], CLASSES, path)
    with pytest.raises(UserError, match="is there already: give --overwrite"):
        run(monkeypatch, photos, figure=str(path))
    assert run(monkeypatch, photos, figure=str(path), overwrite=True) == 1
    assert f"drawn in {path}, the first 16 of 36 images" in capsys.readouterr().err
    files, _ = photo_files.find_images([str(photos)])
    usable = [answer.picture for answer in answers(network(), files) if not answer.problem]
    places = [places_of(picture, figure4.SIDE, path) for picture in usable[:16]]
    grid = sorted({place for found in places for place in found})  # row by row
    assert len(grid) == 16 and all(map(list.__contains__, places, grid))
    assert np.ptp(np.reshape(grid, (4, 4, 2))[..., 0], axis=1).max() == 0  # four across


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_figure_never_replaces_a_photo(monkeypatch, tmp_path: Path, suffix: str) -> None:
    """`--figure a.jpg b.jpg`, which looks like a switch; not even with --overwrite, and not a
    figure that is among the files to read."""
    names = [f"{name}{suffix}" for name in "abc"]
    form = {".png": "PNG", ".jpg": "JPEG"}[suffix]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(data_fixtures.encode(squares(3)[i], form))
    before = {name: (tmp_path / name).read_bytes() for name in names}
    a, b, c = (tmp_path / name for name in names)
    for figure, files, overwrite, message in (
        (a, [b], False, "give --overwrite to replace it"),
        (a, [b], True, "was not written by this program"),
        (a, [a, b], True, "is one of the files to read"),
        (a, [tmp_path], False, "is one of the files to read"),
        (tmp_path / "." / names[2], [b, c], True, "is one of the files to read"),
        (tmp_path, [b], True, "is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            run(monkeypatch, *files, figure=str(figure), overwrite=overwrite)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    drawn = tmp_path / f"drawn{suffix}"
    assert run(monkeypatch, b, figure=str(drawn)) == 0
    with pytest.raises(UserError, match="is one of the files to read"):
        run(monkeypatch, tmp_path, figure=str(drawn), overwrite=True)


def test_the_bar_of_the_true_label_is_red(tmp_path: Path) -> None:
    """As long as its probability, and no bar where the label is not known or not among the five."""
    path, probabilities = tmp_path / "figure.png", np.zeros(len(CLASSES))
    probabilities[:3] = 0.6, 0.3, 0.05
    for truth, share in ((0, 0.6), (1, 0.3), (11, 0), (None, 0)):
        answer = Answer("photo.jpg", "", squares(1)[0], probabilities, truth)
        figure4.draw_answers([answer], CLASSES, path)
        others = 0.95 - share
        red, blue = colour_share(path, sheet.TRUE), colour_share(path, sheet.OTHER)
        full = figure4.SIDE * sheet.BAR * 0.88
        assert red == pytest.approx(share * full, abs=0.12 * full), truth  # letters lie over it
        assert blue == pytest.approx(others * full, abs=0.2 * full), truth


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=", "a.jpg"], "--workdir has an empty name"),
        (["--workdir=W"], "no images were given"),
        (["--workdir=W", "--figure=out.txt", "a.jpg"], "--figure=out.txt: a picture's name ends"),
        (["--workdir=W", "--figure=no/out.png", "a.jpg"], "there is no folder no"),
        (["--workdir=W", "--tenviews", "a.jpg"], "tenviews"),
    ],
)
def test_a_command_that_is_wrong(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = program("predict", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line
    assert list(tmp_path.iterdir()) == []


def test_a_real_process(photos: Path, tmp_path: Path) -> None:
    """On one core: the same answers as here, by the best checkpoint and not the last, the figure,
    and exit code 1 for the bad files."""
    workdir, figure = write_run(tmp_path / "run"), tmp_path / "figure.jpg"
    flags = (f"--workdir={workdir}", "--best", "--json", f"--figure={figure}")
    done = program("predict", *flags, photos)
    assert done.returncode == 1, done.stderr
    said = {a["file"]: a for a in map(json.loads, done.stdout.splitlines())}
    assert len(said) == 39
    good = photos / "d" / "01.png"
    for (name, probability), (expected_name, expected) in zip(
        said[str(good)]["top5"],
        Answer(str(good), "", squares(1)[0], network().predict([good])[0]).top(CLASSES),
        strict=True,
    ):
        assert name == expected_name and probability == pytest.approx(expected, rel=1e-3)
    assert sum(line.startswith("skipped ") for line in done.stderr.splitlines()) == 3
    assert f"restoring step 7 of {workdir} took" in done.stderr
    with Image.open(figure) as image:
        assert image.format == "JPEG" and 650 < image.width < 750 and 1000 < image.height < 1200
