"""Features of many images, in files of their own, and the nearest neighbours that they make."""

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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
from alexnet_jax.evaluation import features, neighbours, trained_network
from alexnet_jax.evaluation.features import Row
from alexnet_jax.evaluation.neighbours import nearest
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
    given = {"workdir": "W", "out": None, "layer": "fc7", "split": None, "data_dir": None}
    given |= {"cache": None, "neighbours": None, "queries": 5, "best": False, "overwrite": False}
    monkeypatch.setattr(trained_network, "load", lambda workdir, best: network())
    return command.compute(Namespace(files=[str(file) for file in files], **(given | values)))


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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.files.txt", "test.npy"]
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


def test_a_name_of_two_lines_is_one(tmp_path: Path) -> None:
    """And of bytes that are no UTF-8; rows and lines stay side by side."""
    rows = [Row("a\nb\tc", 3), Row("d\udcff", -1)]
    features.write_npy(tmp_path / "f.npy", (2,), [(rows, np.zeros((2, 2), np.float32))])
    assert (tmp_path / "f.files.txt").read_bytes() == b"a\\nb\\tc\t3\nd\xff\n"


def test_any_number_of_rows_has_the_same_header(tmp_path: Path) -> None:
    """NumPy reads what was written a batch at a time, with none, one and many rows."""
    for count in (0, 1, 1234):
        values = np.arange(count * 6, dtype=np.float32).reshape(count, 3, 2)
        parts = [
            ([Row(str(i), -1) for i in range(start, min(start + 100, count))], values[start:][:100])
            for start in range(0, count, 100)
        ]
        path = tmp_path / f"{count}.npy"
        assert len(features.write_npy(path, (3, 2), parts)) == count
        np.testing.assert_array_equal(np.load(path), values)


def test_nothing_half_written_has_the_name(tmp_path: Path) -> None:
    """Stopped in the middle: as if it had never begun."""

    def batches() -> Iterator[features.Batch]:
        yield [Row("a", -1)], np.zeros((1, 2), np.float32)
        assert not (tmp_path / "f.npy").exists() and len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.write_npy(tmp_path / "f.npy", (2,), batches())
    assert list(tmp_path.iterdir()) == []


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


def test_there_has_to_be_room(monkeypatch, tmp_path: Path) -> None:
    """On the disk, and for .npz in memory."""
    free = SimpleNamespace(free=4 * 1000 * 50)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: free)
    features.check_room(tmp_path / "f.npy", 900, (5, 10))
    with pytest.raises(UserError, match=r"1,000 x \(5, 10\) numbers take .* are free"):
        features.check_room(tmp_path / "f.npy", 1000, (5, 10))
    with pytest.raises(UserError, match=r"of memory: give --out=NAME.npy"):
        features.check_room(tmp_path / "f.npz", 10**12, (4096,))
    with pytest.raises(UserError, match=r"of memory: give --out=NAME.npy"):
        features.check_room(None, 10**12, (4096,))
    monkeypatch.delattr(features.os, "sysconf")  # as on Windows, which does not say
    features.check_room(None, 10**12, (4096,))


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
        (["--workdir=", "--out=f.npy", "a.jpg"], "--workdir= is empty"),
        (["--workdir=W", "--out=f.npy"], "give either --split=NAME"),
        (["--workdir=W", "--out=f.npy", "--split=test", "a.jpg"], "give either --split=NAME"),
        (["--workdir=W", "a.jpg"], "--out is missing"),
        (["--workdir=W", "--out=f.csv", "a.jpg"], "has to end in .npy or .npz"),
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
