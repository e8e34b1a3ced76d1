"""Features of many images, in files of their own, and the nearest neighbours that they make."""

import csv
import json
from functools import partial
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
    colour_share,
    network,
    places_of,
    program,
    squares,
    write_run,
)

from alexnet_jax import features as command
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import neighbours, trained_network
from alexnet_jax.evaluation.features import Row
from alexnet_jax.evaluation.neighbours import nearest
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model import AlexNet
from alexnet_jax.pictures import figure4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, 36 in its test split; their cache lies beside it."""
    root = tmp_path_factory.mktemp("data")
    data_fixtures.write_folder(root / "images", {"train": 1, "test": 3}, CLASSES)
    return root


@pytest.fixture(scope="module")
def cache(root: Path) -> Cache:
    return ensure_cache(f"folder:{root}/images", network().size, str(root))


def run(monkeypatch: pytest.MonkeyPatch, *files: object, **values: Any) -> int:
    """The command in this process, with the network that is compiled already."""
    given = [f"--{name}" + f"={value}" * (value is not True) for name, value in values.items()]
    monkeypatch.setattr(trained_network, "load", lambda workdir, best: network())
    return command.compute(command.parse_flags(["--workdir=W", *given, *map(str, files)]))


def names(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


# --- features -------------------------------------------------------------------------------------


def test_features_are_those_of_the_network_on_a_crop_cut_by_hand() -> None:
    """The activations of fc7, and what comes out of conv5's pooling."""
    net = network()
    crops = squares(3)[:, 4 : 4 + CROP, 4 : 4 + CROP].astype(np.float32)
    seen = crops - np.asarray(net.viewer.mean_image)[4 : 4 + CROP, 4 : 4 + CROP]
    model = AlexNet(fixtures.small_network())
    params = {"params": net.variables["params"]}
    _, expected = jax.jit(lambda x: model.apply(params, x, intermediates=True))(seen)
    for layer, stage in (("fc7", "fc7/activation"), ("conv5/pool", "conv5/pool")):
        found = net.features(squares(3), layer)
        np.testing.assert_allclose(found, expected[stage], rtol=2e-4, atol=2e-4)


def test_a_split_in_a_memory_mapped_file(monkeypatch, capsys, root, cache, tmp_path) -> None:
    """Bit for bit `TrainedNetwork.features`; beside it the names and labels; nothing else stays."""
    out = tmp_path / "test.npy"
    given = {"out": str(out), "split": "test", "cache": cache.path, "layer": "conv5/pool"}
    assert run(monkeypatch, **given) == 0
    found = np.load(out, mmap_mode="r")
    assert (found.dtype, found.shape) == (np.float32, (36, 2, 2, 16))
    np.testing.assert_array_equal(found, network().features(cache.images["test"], "conv5/pool"))
    expected = [[name, str(label)] for label, _, name in cache.rows("test")]
    assert names(tmp_path / "test.files.txt") == expected
    written = ["test.files.txt", "test.npy", "test.npy.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == written
    captured = capsys.readouterr()
    assert f"{out}: conv5/pool, float32 (36, 2, 2, 16)" in captured.out
    assert "36 images, " in captured.err and "images/s" in captured.err


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_files_without_those_that_cannot_be_used(
    monkeypatch, capsys, tmp_path: Path, suffix: str
) -> None:
    """Fewer rows than files, over a batch's end; their labels where a folder is a class."""
    photos, out = tmp_path / "photos", tmp_path / f"f{suffix}"
    for i in range(35):
        folder = photos / ("b" if i % 2 else "elsewhere")
        folder.mkdir(parents=True, exist_ok=True)
        content = data_fixtures.encode(squares(35)[i], "PNG") if i % 7 else b"no image"
        (folder / f"{i:02}.png").write_bytes(content)
    files = sorted(photos.rglob("*.png"))
    assert run(monkeypatch, photos, tmp_path / "no", out=str(out)) == 1
    assert capsys.readouterr().err.count("skipped ") == 6
    good = [file for file in files if int(file.stem) % 7]
    labels = [1 if int(file.stem) % 2 else -1 for file in good]
    expected = network().features(good)
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(out, mmap_mode="r"), expected)
        rows = [[str(f), "1"] if label == 1 else [str(f)] for f, label in zip(good, labels)]
        assert names(tmp_path / "f.files.txt") == rows
        return
    with np.load(out) as found:
        np.testing.assert_array_equal(found["features"], expected)
        assert found["files"].tolist() == [*map(str, good)]
        assert found["labels"].tolist() == labels


# --- what is refused ------------------------------------------------------------------------------


def test_nothing_is_overwritten(monkeypatch, root: Path, tmp_path: Path) -> None:
    """Neither the features nor the names beside them nor a picture, and before any work."""
    for name in ("f.npy", "f.files.txt", "g.npz"):
        (tmp_path / name).write_text("kept")
        with pytest.raises(UserError, match=f"{name} is there already"):
            run(monkeypatch, root, out=str(tmp_path / name.replace("files.txt", "npy")))
        assert (tmp_path / name).read_text() == "kept"
        (tmp_path / name).unlink()
    (tmp_path / "n.png").write_text("kept")
    with pytest.raises(UserError, match=r"n\.png is there already"):
        run(monkeypatch, root, neighbours=str(tmp_path / "n.png"))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_overwrite_replaces_its_own(monkeypatch, root: Path, tmp_path: Path, suffix: str) -> None:
    """And never a file of somebody else, which says nothing of this program; a file of the user's
    that has the name of a half written one stays."""
    photo, out = root / "images" / "test" / "a", tmp_path / f"f{suffix}"
    given: dict[str, Any] = {"out": str(out), "overwrite": True}
    (tmp_path / f"f{suffix}.partial").write_text("the user's")
    with out.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(UserError, match="was not written by this program"):
        run(monkeypatch, photo, **given)
    assert np.load(out).tolist() == [1, 1, 1]
    out.unlink()
    for layer, width in (("fc7", 32), ("fc8", 12)):
        assert run(monkeypatch, photo, layer=layer, **given) == 0
        found = np.load(out)
        assert (found if suffix == ".npy" else found["features"]).shape == (3, width)
    assert (tmp_path / f"f{suffix}.partial").read_text() == "the user's"


def test_an_unknown_layer_split_or_cache(monkeypatch, cache: Cache, tmp_path: Path) -> None:
    given = {"out": str(tmp_path / "f.npy"), "split": "test", "cache": cache.path}
    with pytest.raises(UserError, match=r"no layer 'fc9': one of conv1, .*fc7"):
        run(monkeypatch, **given | {"layer": "fc9"})
    with pytest.raises(UserError, match=r"data\.cache=none: give --cache=DIR"):
        run(monkeypatch, **given | {"cache": "none"})
    with pytest.raises(UserError, match=r"--split=tset: the splits of .* are train, test"):
        run(monkeypatch, **given | {"split": "tset"})
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_other_classes(monkeypatch, tmp_path: Path) -> None:
    data_fixtures.write_folder(tmp_path / "images", {"train": 1, "test": 1}, ("x", "y"))
    other = ensure_cache(f"folder:{tmp_path}/images", network().size, str(tmp_path))
    with pytest.raises(UserError, match="has other classes than tested"):
        run(monkeypatch, split="test", cache=other.path, neighbours=str(tmp_path / "n.png"))


def test_files_none_of_which_can_be_used(monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(UserError, match="none of the 1 files can be used"):
        run(monkeypatch, tmp_path, out=str(tmp_path / "f.npy"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.jpg"]
    assert run(monkeypatch, tmp_path / "none", out=str(tmp_path / "f.npy")) == 1
    assert "none: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=", "--out=f.npy", "a.jpg"], "--workdir has an empty name"),
        (["--workdir=W", "--out=f.npy"], "give either --split=NAME"),
        (["--workdir=W", "--out=f.npy", "--split=test", "a.jpg"], "give either --split=NAME"),
        (["--workdir=W", "a.jpg"], "--out is missing"),
        (["--workdir=W", "--out=f.txt", "a.jpg"], "has to end in one of .npy, .npz, .h5, .mat"),
        (["--workdir=W", "--out=f.npy", "--layers=fc6,fc7", "a.jpg"], "give a folder and --format"),
        (["--workdir=W", "--out=f.npy", "--format=h5", "a.jpg"], "give a folder and --format"),
        (["--workdir=W", "--out=f.mat", "--dtype=float16", "a.jpg"], "no such numbers; .h5 has"),
        (["--workdir=W", "--layers=fc6,fc7", "--neighbours=n.png", "a.jpg"], "of one layer"),
        (["--workdir=W", "--out=no/f.npy", "a.jpg"], "there is no folder no"),
        (["--workdir=W", "--neighbours=n.npy", "a.jpg"], "a picture's name ends in"),
    ],
)
def test_a_command_that_is_wrong(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = program("features", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line
    assert list(tmp_path.iterdir()) == []


def test_several_layers_in_a_folder(monkeypatch, capsys, root: Path, tmp_path: Path) -> None:
    """A file for each, by the names that were given, and the names and facts of all beside them.
    A flag that comes twice names more."""
    out, files = tmp_path / "new", sorted((root / "images" / "test").rglob("*.*"))
    layers = {"layers": "fc7,conv5/pool", "format": "npy"}
    assert run(monkeypatch, *files, "--layer=prob", out=out, **layers) == 0
    written = ["conv5-pool.npy", "fc7.npy", "files.txt", "layers.json", "prob.npy"]
    assert sorted(path.name for path in out.iterdir()) == written
    facts = json.loads((out / "layers.json").read_text())
    assert (facts["images"], facts["classes"]) == (36, [*CLASSES])
    for about in facts["layers"]:
        expected = network().features(files, about["layer"])
        assert fixtures.difference(np.load(out / about["file"]), expected) < 1e-5
        assert (about["network"], about["step"], about["view"]) == ("tested", 7, "centre")
        assert tuple(about["shape"]) == expected.shape[1:]
    assert [about["stage"] for about in facts["layers"]] == ["fc7/activation", "conv5/pool", "prob"]
    labels = [str(CLASSES.index(file.parent.name)) for file in files]
    assert names(out / "files.txt") == [[str(file), n] for file, n in zip(files, labels)]
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == [
        f"{out}/prob.npy: prob, float32 (36, 12)",
        f"{out}/files.txt: names of the rows",
        f"{out}/layers.json: what they are",
    ]
    with pytest.raises(UserError, match="is there already: give --overwrite"):
        run(monkeypatch, *files, out=out, layers="fc7", format="npy")
    with pytest.raises(UserError, match=r"has conv5-pool\.npy, prob\.npy of an earlier pass"):
        run(monkeypatch, *files, out=out, layers="fc7", format="npy", overwrite=True)
    assert run(monkeypatch, "--layer=prob", *files[:5], out=out, **layers, overwrite=True) == 0
    assert len(np.load(out / "prob.npy")) == len(names(out / "files.txt")) == 5
    with pytest.raises(UserError, match="is for one layer in that form: give a folder"):
        run(monkeypatch, *files, out=out / "prob.npy", layers="fc6,fc7", format="npy")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="is a file: give a folder"):
        run(monkeypatch, *files, out=tmp_path / "file", layers="fc6,fc7")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "files.txt").write_text("kept")
    with pytest.raises(UserError, match="was not written by this program"):
        run(monkeypatch, *files, out=tmp_path / "theirs", overwrite=True)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["files.txt"]


def test_the_form_of_maps(monkeypatch, root: Path, tmp_path: Path) -> None:
    """By what the flags say, whichever else they say."""
    folder, out = root / "images" / "test" / "c", tmp_path / "f.npy"
    one = np.float64(network().features(sorted(folder.iterdir()), "pool5"))
    views = [network().features(sorted(folder.iterdir()), "pool5", view) for view in range(10)]
    for given, expected in (
        ({"order": "channels_first"}, one.transpose(0, 3, 1, 2)),
        ({"order": "channels_first", "maps": "flat"}, one.transpose(0, 3, 1, 2).reshape(3, -1)),
        ({"maps": "flat"}, one.reshape(3, -1)),
        ({"maps": "mean", "order": "channels_first"}, one.mean((1, 2))),
        ({"ten_views": True}, np.mean(views, 0)),
        ({"ten_views": True, "maps": "mean"}, np.mean(views, (0, 2, 3))),
    ):
        for dtype, apart in (("float32", 1e-5), ("float16", 1e-3)):
            more = {"dtype": dtype, "layers": "pool5", "overwrite": True}
            assert run(monkeypatch, folder, out=out, **given, **more) == 0
            found = np.load(out)
            assert (found.dtype, found.shape) == (dtype, expected.shape)
            assert fixtures.difference(found, expected) < apart, given
    assert np.abs(np.mean(views, 0) - one).max() > 1e-2  # the views differ


def test_what_float16_does_not_hold(monkeypatch, root: Path, tmp_path: Path) -> None:
    """Is said, with the image and the layer, and nothing is written."""
    look = TrainedNetwork.look
    larger = {False: 1.0, True: 1e5}

    def large(self: TrainedNetwork, stages: Any, pictures: np.ndarray, **more: Any) -> Any:
        found = look(self, stages, pictures, **more)
        return {stage: values * larger[bool(pictures.any())] for stage, values in found.items()}

    monkeypatch.setattr(TrainedNetwork, "look", large)
    folder = root / "images" / "test" / "c"
    with pytest.raises(UserError, match=r"fc7 goes up to [\d,]+ in .*/c/.*, and float16 to 65,504"):
        run(monkeypatch, folder, out=tmp_path / "new", format="h5", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_all_probabilities_as_a_table(monkeypatch, root: Path, tmp_path: Path) -> None:
    """As Python's own reader has it: a row for each image, a column for each class."""
    out, files = tmp_path / "p.csv", sorted((root / "images" / "test").rglob("*.*"))
    assert run(monkeypatch, *files, out=out, layers="prob") == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [*map(str, files)]
    assert [row["label"] for row in rows] == [file.parent.name for file in files]
    found = np.array([[float(row[name]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(found, network().predict(files), rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.csv.json"]
    with pytest.raises(UserError, match="give --overwrite"):
        run(monkeypatch, *files, out=out, layers="prob")
    assert run(monkeypatch, *files[:1], out=out, layers="prob", overwrite=True) == 0
    (tmp_path / "p.csv.json").unlink()
    with pytest.raises(UserError, match=r"p\.csv .* was not written by this program"):
        run(monkeypatch, *files, out=out, layers="prob", overwrite=True)


# --- neighbours -----------------------------------------------------------------------------------


def by_force(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Every distance by `np.linalg.norm`, in float64."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    asked = queries.reshape(len(queries), -1).astype(np.float64)
    return np.stack([np.linalg.norm(flat - query, axis=1) for query in asked])


@pytest.mark.parametrize("block", [1, 8 * 12 * 7, 10**6])
def test_nearest_is_brute_force(monkeypatch, tmp_path: Path, block: int) -> None:
    """In blocks of one row, of seven and of all; of maps, which are memory-mapped."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "f.npy", rng.normal(1000, 1, (50, 2, 2, 3)).astype(np.float32))
    rows = np.load(tmp_path / "f.npy", mmap_mode="r")
    queries = rng.normal(1000, 1, (4, 2, 2, 3)).astype(np.float32)
    found, distances = nearest(rows, queries, 6)
    expected = by_force(rows, queries)
    np.testing.assert_array_equal(found, np.argsort(expected, axis=1)[:, :6])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :6], rtol=1e-12)


def test_near_duplicates_are_told_apart() -> None:
    """Far from the origin, where |a|² + |b|² - 2ab in float32 has no digits left."""
    rows = np.full((5, 4096), 1000, np.float32)
    rows[:, 0] += np.array([0.5, 0.25, 0, 1, 0.75], np.float32)
    found, distances = nearest(rows, rows[2:3], 5)
    assert found.tolist() == [[2, 1, 0, 4, 3]]
    assert distances.tolist() == [[0, 0.25, 0.5, 0.75, 1]]


def test_equals_come_in_order_and_few_rows_are_all_found() -> None:
    rows = np.array([[1.0], [0.0], [1.0], [0.0]])
    found, distances = nearest(rows, np.array([[0.0]]), 9)
    assert found.tolist() == [[1, 3, 0, 2]] and distances.tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="queries"):
        nearest(rows, np.zeros((1, 2)), 1)


def test_a_query_is_not_its_own_neighbour(monkeypatch, tmp_path: Path) -> None:
    """But its copy is; pictures, names and distances belong together."""
    rows = [Row(f"{i}.png", label) for i, label in enumerate((0, 0, 1, -1))]
    values = np.array([[0.0], [0.0], [3.0], [5.0]])
    drawn: list[Any] = []
    monkeypatch.setattr(figure4, "draw_neighbours", lambda rows, path: drawn.extend(rows))
    path = tmp_path / "n.png"
    draw = partial(figure4.draw_nearest, network(), queries=2, path=path)
    draw(rows, values, lambda i, row: np.full((2, 2, 3), i, np.uint8))
    assert [int(row.query.picture[0, 0, 0]) for row in drawn] == [1, 3]  # from all over
    seen = [[(int(p[0, 0, 0]), name, d) for (p, name, _), d in row.found] for row in drawn]
    assert seen[0] == [(0, "a", 0), (2, "b", 3), (3, "3.png", 5)]
    assert seen[1] == [(2, "b", 2), (0, "a", 5), (1, "a", 5)]
    with pytest.raises(UserError, match="a single image has no neighbours"):
        draw(rows[:1], values[:1], lambda i, row: np.zeros((2, 2, 3)))


def test_neighbours_of_another_class_are_named_in_red(tmp_path: Path) -> None:
    """None where a class is not known."""
    path = tmp_path / "n.png"
    for query, label, red in ((0, 1, True), (0, 0, False), (None, 1, False), (0, None, False)):
        shown, other = (figure4.Shown(squares(1)[0], "$na$me\\", i) for i in (query, label))
        figure4.draw_neighbours([figure4.Neighbours(shown, [(other, 1.5)] * 3)], path)
        assert (colour_share(path, figure4.WRONG) > 0) is red


@pytest.mark.parametrize("form", ["npz", "h5", "mat"])
def test_neighbours_of_what_was_written(monkeypatch, root: Path, tmp_path: Path, form: str) -> None:
    """In a file of any form that keeps every digit."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(figure4, "draw_neighbours", lambda rows, path: drawn.update({path: rows}))
    files = sorted((root / "images" / "test").rglob("*.*"))[:9]
    given = {"layers": "pool5", "order": "channels_first", "queries": 2}
    pictures = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert run(monkeypatch, *files, neighbours=pictures[0], **given) == 0
    out = tmp_path / f"f.{form}"
    assert run(monkeypatch, *files, neighbours=pictures[1], out=out, **given) == 0
    names_and_distances = [
        [(shown.name, distance) for row in drawn[path] for shown, distance in row.found]
        for path in pictures
    ]
    assert names_and_distances[0] == names_and_distances[1] and len(names_and_distances[0]) == 12


# --- the program ----------------------------------------------------------------------------------


def test_a_real_process(root: Path, cache: Cache, tmp_path: Path) -> None:
    """The split of the run's own dataset, as its configuration names it, by the best checkpoint and
    not the last; the picture has every query, and beside it the nearest in their order."""
    source = (f"data.source=folder:{root}/images", f"data.dir={root}")
    workdir = write_run(tmp_path / "run", *source)
    out, picture = tmp_path / "f.npy", tmp_path / "n.png"
    flags = (
        f"--workdir={workdir}",
        "--best",
        "--split=test",
        f"--out={out}",
        f"--neighbours={picture}",
    )
    done = program("features", *flags)
    assert done.returncode == 0, done.stderr
    assert f"{out}: fc7, float32 (36, 32)" in done.stdout and str(picture) in done.stdout
    expected = network().features(cache.images["test"])
    np.testing.assert_allclose(np.load(out), expected, rtol=1e-4, atol=1e-4)
    queries = [3, 10, 18, 25, 32]  # of 36: from all over
    nearest_first = np.argsort(by_force(expected, expected[queries]), axis=1)[:, :7]
    below = 0
    for query, row in zip(queries, nearest_first, strict=True):
        assert row[0] == query
        shown = [places_of(cache.images["test"][i], figure4.SMALL, picture) for i in row]
        top = min(top for top, _ in shown[0] if top >= below)
        lefts = [left for found in shown for at, left in found if at == top]
        assert len(lefts) == 7 and all(np.diff(lefts) >= figure4.SMALL)
        below = top + figure4.SMALL
    done = program("features", *flags)
    assert done.returncode == 1 and f"error: {out} is there already" in done.stderr


def test_the_list(tmp_path: Path) -> None:
    """Every layer with its shape and other names, no files and no --out needed, in 80 columns."""
    done = program("features", f"--workdir={write_run(tmp_path / 'run')}", "--layers=list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines]
    assert ["conv1", "23x23x8", "conv1/activation", "relu1"] in cells
    assert ["conv5/pool", "2x2x16", "pool5"] in cells and ["prob", "12"] in cells
    assert cells[0] == ["layer", "shape", "also"]
