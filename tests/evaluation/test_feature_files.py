"""Files of features: read by NumPy, h5py, scipy and csv; whole or not there; in little memory."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from scipy import io as scipy_io

from alexnet_jax import cli
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import feature_files
from alexnet_jax.evaluation.feature_files import read, write_batches
from alexnet_jax.evaluation.feature_places import Place, place
from alexnet_jax.evaluation.features import Row, Values

CLASSES = ["cat", "왕의 깃발", "dog, old"]
SHAPES = {"conv5/pool": (2, 3, 4), "prob": (3,)}
ROWS = [Row(f"photos/왕의 깃발/{i}, 사진.png", i % 4 - 1) for i in range(75)]
ALL = {
    layer: np.random.default_rng(0).normal(0, 100, (75, *shape)).astype(np.float32)
    for layer, shape in SHAPES.items()
}


def facts(layer: str, dtype: str = "float32") -> dict[str, Any]:
    """Such as `features.facts` gives."""
    about = {"layer": layer, "stage": layer, "dtype": dtype, "step": 7, "network": "/왕/w"}
    return about | {"version": "alexnet_jax 0.1.0"}


def batches(dtype: str = "float32") -> Iterator[tuple[list[Row], Values]]:
    """All, in parts of different sizes, as where some files cannot be used."""
    for start, end in ((0, 32), (32, 60), (60, 61), (61, 75)):
        yield ROWS[start:end], {name: all_[start:end].astype(dtype) for name, all_ in ALL.items()}


def written(folder: Path, form: str, dtype: str = "float32") -> Place:
    """Both layers in a folder."""
    there = place(folder, form, list(SHAPES))
    about = {layer: facts(layer, dtype) for layer in SHAPES}
    assert write_batches(there, batches(dtype), SHAPES, about, CLASSES) == ROWS
    assert sorted(there.written) == sorted(folder.iterdir())
    return there


def another(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process that knows the modules of the tests."""
    here = Path(__file__).parent
    places = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


# --- other readers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_and_h5py_read_them(tmp_path: Path, dtype: str) -> None:
    """The numbers, names, labels, classes and facts."""
    names, labels = [row.name for row in ROWS], [row.label for row in ROWS]
    for form in ("npy", "npz", "h5"):
        for layer, path in written(tmp_path / form, form, dtype).features.items():
            expected = ALL[layer].astype(dtype)
            values = np.asarray(read(path))
            assert values.dtype == dtype
            np.testing.assert_array_equal(values, expected)
            if form == "npz":
                with np.load(path) as found:
                    np.testing.assert_array_equal(found["features"], expected)
                    assert found["files"].tolist() == names and found["labels"].tolist() == labels
                    assert found["classes"].tolist() == CLASSES
                    assert json.loads(str(found["facts"])) == {
                        **facts(layer, dtype), "shape": [*SHAPES[layer]]
                    }  # fmt: skip
            elif form == "h5":
                with h5py.File(path) as file:
                    assert file["files"].asstr()[:].tolist() == names
                    assert file["labels"][:].tolist() == labels
                    assert file["classes"].asstr()[:].tolist() == CLASSES
                    about = dict(file.attrs)
                    assert about.pop("shape").tolist() == [*SHAPES[layer]]
                    assert about == facts(layer, dtype)
                    assert file["features"].chunks[1:] == SHAPES[layer]


def test_scipy_reads_mat(tmp_path: Path) -> None:
    """As MATLAB shows it: numbers, cells of names, a struct."""
    for layer, path in written(tmp_path / "m", "mat").features.items():
        assert [name for name, *_ in scipy_io.whosmat(path)] == [
            "features", "files", "labels", "classes", "facts"
        ]  # fmt: skip
        found = scipy_io.loadmat(path, simplify_cells=True)
        np.testing.assert_array_equal(found["features"], ALL[layer])
        np.testing.assert_array_equal(read(path), ALL[layer])
        assert found["files"].tolist() == [row.name for row in ROWS]
        assert found["labels"].tolist() == [row.label for row in ROWS]
        assert found["classes"].tolist() == CLASSES
        about = found["facts"]
        assert np.atleast_1d(about.pop("shape")).tolist() == [*SHAPES[layer]]
        assert about == facts(layer)


def test_csv_reads_tables(tmp_path: Path) -> None:
    """Names that hold commas and letters of any script; the numbers under the classes' names."""
    there = written(tmp_path / "c", "csv")
    for layer, path in there.features.items():
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        columns = CLASSES if layer == "prob" else [str(number) for number in range(24)]
        assert head == ["file", "label", *columns]
        for line, row, values in zip(rows, ROWS, ALL[layer], strict=True):
            assert line[:2] == [row.name, CLASSES[row.label] if row.label >= 0 else ""]
            np.testing.assert_allclose(np.float64(line[2:]), values.ravel(), rtol=1e-6)


def test_what_lies_beside_them(tmp_path: Path) -> None:
    """Names with their labels, and the facts of all."""
    there = written(tmp_path / "n", "npy")
    assert there.names and there.facts
    lines = [f"{name}\t{label}" if label >= 0 else name for name, label in ROWS]
    assert there.names.read_text(encoding="utf-8").splitlines() == lines
    assert json.loads(there.facts.read_text()) == {
        "images": 75,
        "names": "files.txt",
        "layers": [
            {"file": "conv5-pool.npy", **facts("conv5/pool"), "shape": [2, 3, 4]},
            {"file": "prob.npy", **facts("prob"), "shape": [3]},
        ],
        "classes": CLASSES,
    }


@pytest.mark.parametrize("form", feature_files.WRITERS)
def test_they_have_the_mark(tmp_path: Path, form: str) -> None:
    """Each, however large, or the one that signs for it; a file of the same form by somebody else
    has not."""
    alone = place(tmp_path / f"f.{form}", form, ["prob"])
    rows, values = 4000 * [Row(100 * "이름", 1)], np.ones((4000, 3), np.float32)
    classes = [f"{number} {100 * 'class'}" for number in range(1000)]
    given = ([(rows, {"prob": values})], {"prob": (3,)}, {"prob": facts("prob")}, classes)
    write_batches(alone, *given)
    for there in (alone, written(tmp_path / "folder", form)):
        assert all(cli.is_ours(there.signed or path) for path in there.written)
    with (tmp_path / "other.npz").open("wb") as file:
        np.savez(file, features=ALL["prob"])
    np.save(tmp_path / "other.npy", ALL["prob"])
    scipy_io.savemat(tmp_path / "other.mat", {"features": ALL["prob"]})
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        h5["features"] = ALL["prob"]
    assert not any(cli.is_ours(file) for file in tmp_path.glob("other.*"))
    with pytest.raises(FileExistsError):
        write_batches(alone, *given)
    write_batches(alone, *given, overwrite=True)


def test_a_name_of_two_lines_is_one(tmp_path: Path) -> None:
    """And of bytes that are no UTF-8; rows and lines stay side by side."""
    rows = [Row("a\nb\tc", 2), Row("d\udcff", -1)]
    some = [(rows, {"prob": np.zeros((2, 3), np.float32)})]
    for form in feature_files.WRITERS:
        there = place(tmp_path / f"f.{form}", form, ["prob"])
        write_batches(there, some, SHAPES, {"prob": facts("prob")}, CLASSES)
    assert (tmp_path / "f.files.txt").read_bytes() == b"a\\nb\\tc\t2\nd\xff\n"
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["files"][:].tolist() == [b"a\nb\tc", b"d\xff"]
    assert np.load(tmp_path / "f.npz")["files"].tolist() == [row.name for row in rows]
    with (tmp_path / "f.csv").open(newline="", errors="surrogateescape") as table:
        assert [row["file"] for row in csv.DictReader(table)] == [row.name for row in rows]


def test_any_number_of_rows_has_the_same_header(tmp_path: Path) -> None:
    """NumPy reads what was written a batch at a time, with none, one and many rows."""
    for count in (0, 1, 1234):
        values = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
        some = [
            ([Row(str(i), -1) for i in range(start, min(start + 100, count))], part)
            for start in range(0, count, 100)
            for part in [{"prob": values[start:][:100]}]
        ]
        there = place(tmp_path / f"{count}.npy", "npy", ["prob"])
        assert len(write_batches(there, some, SHAPES, {"prob": facts("prob")}, CLASSES)) == count
        np.testing.assert_array_equal(np.load(there.features["prob"]), values)


# --- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize("form", feature_files.WRITERS)
def test_nothing_half_written_has_the_name(tmp_path: Path, form: str) -> None:
    """Stopped in the middle: as if it had never begun; a folder that was there stays."""

    def stopped() -> Iterator[tuple[list[Row], Values]]:
        yield from list(batches())[:2]
        assert all(path.name.startswith(".") for path in there.written[0].parent.iterdir())
        raise KeyboardInterrupt

    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new", tmp_path / "old"):
        there = place(folder, form, list(SHAPES))
        with pytest.raises(KeyboardInterrupt):
            write_batches(there, stopped(), SHAPES, {la: facts(la) for la in SHAPES}, CLASSES)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


KILLED = """
import os, signal, sys
from pathlib import Path
from test_feature_files import CLASSES, SHAPES, batches, facts
from alexnet_jax.evaluation.feature_files import WRITERS, write_batches
from alexnet_jax.evaluation.feature_places import place
def killed(after):
    yield from list(batches())[:after]
    os.kill(os.getpid(), signal.SIGKILL)
for form in WRITERS:
    there = place(Path(sys.argv[1]) / form, form, list(SHAPES))
    about = {layer: facts(layer) for layer in SHAPES}
    for after in (1, 4):
        if not (child := os.fork()):
            write_batches(there, killed(after), SHAPES, about, CLASSES, overwrite=True)
        print(form, after, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked")
def test_killed_while_it_writes_what_was_there_stays(tmp_path: Path) -> None:
    """To the byte, with all of its files, in a folder that has nothing else by a name that shows;
    and the next pass replaces it."""
    before = {form: written(tmp_path / form, form).written for form in feature_files.WRITERS}
    bytes_of = {path: path.read_bytes() for paths in before.values() for path in paths}
    done = another(KILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = [f"{form} {after} {-signal.SIGKILL}" for form in before for after in (1, 4)]
    assert done.stdout.splitlines() == expected
    for form, paths in before.items():
        shown = [path for path in (tmp_path / form).iterdir() if path.name[0] != "."]
        assert sorted(shown) == sorted(paths)
        there = place(tmp_path / form, form, list(SHAPES))
        about = {layer: facts(layer) for layer in SHAPES}
        assert all(path.read_bytes() == bytes_of[path] for path in paths)
        fewer = [next(batches())]
        assert len(write_batches(there, fewer, SHAPES, about, CLASSES, overwrite=True)) == 32
        assert all(path.read_bytes() != bytes_of[path] for path in paths)


FULL = """
import contextlib, resource, signal, sys
from pathlib import Path
from test_feature_files import written
from alexnet_jax import cli
from alexnet_jax.evaluation import feature_files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in (7000, 600):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, 7000))
    for form in feature_files.WRITERS:
        with contextlib.suppress(SystemExit), cli.errors_in_one_line():
            written(Path(sys.argv[1]) / "new", form)
            print(form, size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there are other limits")
def test_a_full_disk(tmp_path: Path) -> None:
    """Here a limit of files' sizes, which one layer exceeds or both: one line that names a file,
    and nothing stays."""
    done = another(FULL, tmp_path)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (0, "", 10), done.stderr
    for line in lines:
        assert line.startswith(f"error: {tmp_path}/new/") and line.endswith(": File too large")
    assert list(tmp_path.iterdir()) == []


def test_there_has_to_be_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the disk for all layers; for .npz in memory; for .mat in one of its arrays."""
    free = SimpleNamespace(free=4 * 1000 * 50)
    monkeypatch.setattr(feature_files.shutil, "disk_usage", lambda path: free)

    def check(form: str, count: int, *shapes: tuple[int, ...], dtype: str = "float32") -> None:
        names = [f"layer {number}" for number in range(len(shapes))]
        there = place(tmp_path / "new", form, names) if form else None
        feature_files.check_room(there, count, dict(zip(names, shapes)), dtype)

    check("npy", 900, (5, 10))
    check("npy", 1900, (5, 10), dtype="float16")
    for form, count, shapes in (
        ("npy", 1000, [(5, 10)]),
        ("npy", 500, [(5, 10), (50,)]),
        ("csv", 400, [(50,)]),
    ):
        with pytest.raises(UserError, match=r"x \(5.*numbers take .* are free for --out"):
            check(form, count, *shapes)
    for form in ("npz", ""):
        with pytest.raises(UserError, match=r"of memory: write \.npy or \.h5"):
            check(form, 10**12, (4096,))
    free.free = 10**12
    monkeypatch.setattr(feature_files, "memory_of_machine", lambda: 10**12)
    check("mat", 131_071, (4096,))
    with pytest.raises(UserError, match=r"a \.mat file holds 2\.1 GB: write \.h5"):
        check("mat", 131_072, (4096,))
    monkeypatch.undo()
    monkeypatch.delattr(feature_files.os, "sysconf")  # as on Windows, which does not say
    feature_files.check_room(None, 10**12, {"fc7": (4096,)})


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Is named before any work."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError) as info:
        place(tmp_path / "f.h5", "h5", ["fc7"])
    assert cli.one_line(info.value) == ("the package h5py is missing: pip install h5py", 1)


# --- memory ---------------------------------------------------------------------------------------

MANY = """
import resource, sys
from pathlib import Path
from asked_fixtures import network, squares
from alexnet_jax.evaluation import feature_files, feature_places
from alexnet_jax.evaluation.features import Pictures, Row, Wanted

def peak(count, form):  # in megabytes
    some = squares(32)
    rows = ([Row(str(start + i), -1) for i in range(32)] for start in range(0, count, 32))
    pictures = Pictures(count, ((row, some) for row in rows), None)
    there = feature_places.place(Path(sys.argv[1]) / f"{count}.{form}", form, ["conv1"])
    feature_files.write(network(), Wanted(("conv1",)), pictures, there)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

for form in ("npy", "h5"):
    few = peak(2048, form)
    print("peak", form, peak(8192, form) - few)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
def test_many_images_take_no_more_memory_than_few(tmp_path: Path) -> None:
    """Four times as many, 104 MB more of numbers, in a process of its own."""
    done = another(MANY, tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    grown = {words[1]: int(words[2]) for words in said if words[0] == "peak"}
    assert {path.stat().st_size >> 20 for path in tmp_path.glob("8192.npy")} == {132}
    assert grown.keys() == {"npy", "h5"} and max(grown.values()) < 50, grown
