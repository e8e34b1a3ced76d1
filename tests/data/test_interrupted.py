"""Preparations that are killed, stopped, or find something in their place: what is kept."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import pytest
from data_fixtures import assert_same_files, photos

from alexnet_jax.data import sources
from alexnet_jax.data.cache import building, journal, listing, store
from alexnet_jax.data.sources.record import Source
from alexnet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]

# A preparation in a process of its own, that can be killed; it records its place after each chunk.
SLOW = """
import sys, time
from alexnet_jax.data import decoding, sources
from alexnet_jax.data.cache import building
building.RECORD_SECONDS, building.CHUNK = 0.0, 4
load = decoding.load
decoding.load = lambda content, size: (time.sleep(float(sys.argv[3])), load(content, size))[1]
building.make_cache(sources.open_source(sys.argv[1]), 16, sys.argv[2], holdout=20, workers=2)
"""


def start_slow(source: str, out: pathlib.Path, seconds: float = 0.004) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, source, str(out), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def killed_half_way(pets: pathlib.Path, out: pathlib.Path) -> None:
    process = start_slow(f"folder:{pets}/pets", out)
    rows = pathlib.Path(f"{out}.partial", "train.csv")
    while not (rows.exists() and rows.stat().st_size > 1200):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()


def test_killed_again_and_again_it_ends_with_the_same_files(pets, tmp_path):
    out, partial = tmp_path / "c", tmp_path / "c.partial"
    lengths = [0]
    for _ in range(30):
        process = start_slow(f"folder:{pets}/pets", out)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            rows = partial / "train.csv"
            if rows.exists() and rows.stat().st_size > lengths[-1] + 1200:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL and not out.exists(), errors
        lengths.append((partial / "train.csv").stat().st_size)
    assert len(lengths) > 3  # each start went further than the one before
    assert_same_files(out, pets / "unbroken")


def test_a_record_that_the_files_contradict_is_not_believed(pets, tmp_path, capsys):
    out, partial = tmp_path / "c", tmp_path / "c.partial"
    killed_half_way(pets, out)
    images_file = partial / "train.images.npy"
    images_file.write_bytes(images_file.read_bytes()[:100])
    source = sources.open_source(f"folder:{pets}/pets")
    building.make_cache(source, 16, str(out), holdout=20)
    assert "train.images.npy has 100 bytes, but" in capsys.readouterr().out
    assert_same_files(out, pets / "unbroken")


def test_another_preparation_in_the_same_place_is_refused(pets, tmp_path):
    out = tmp_path / "c"
    killed_half_way(pets, out)
    source = sources.open_source(f"folder:{pets}/pets")
    with pytest.raises(
        UserError, match=r"another.*at 16 pixels with.*asked for.*at 20 pixels with"
    ):
        building.make_cache(source, 20, str(out), holdout=20)
    with pytest.raises(UserError, match=r"holdout=20; asked for is .* pixels: delete it"):
        building.make_cache(source, 16, str(out))
    with pytest.raises(UserError, match="asked for is photos"):
        building.make_cache(photos(), 16, str(out))
    same_list = dataclasses.replace(source, name="folder:/elsewhere")  # perhaps of other images
    with pytest.raises(UserError, match="asked for is folder:/elsewhere"):
        building.make_cache(same_list, 16, str(out), holdout=20)
    with pytest.raises(UserError, match=r"is no cache .*c\.partial is one that is not complete"):
        store.open_cache(str(tmp_path / "c"))


def test_a_full_disk_costs_nothing_that_was_done(pets, tmp_path):
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));" + SLOW
    )
    arguments = [f"folder:{pets}/pets", str(tmp_path / "c"), "0"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert "UserError: cannot write" in done.stderr, done.stderr
    assert "what was done is kept" in done.stderr
    assert 80_000 < (tmp_path / "c.partial" / "train.images.npy").stat().st_size <= 100_000
    read = []

    class Counted:
        def __init__(self, split):
            self.split = split

        def __len__(self):
            return len(self.split)

        def __getitem__(self, index):
            read.append(index)
            return self.split[index]

    source = sources.open_source(f"folder:{pets}/pets")
    splits = {name: Counted(split) for name, split in source.splits.items()}
    source = Source(source.name, source.class_names, splits, source.identity)
    building.make_cache(source, 16, str(tmp_path / "c"), holdout=20)
    assert_same_files(tmp_path / "c", pets / "unbroken")
    assert len(read) < 312 - 80_000 // (16 * 16 * 3)


def test_two_processes_at_once_make_it_once(pets, tmp_path):
    runs = [start_slow(f"folder:{pets}/pets", tmp_path / "c", 0.02) for _ in range(2)]
    answers = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert {errors for _, errors in answers} == {""}  # no progress bar off a terminal
    assert sorted(said[:19] for said, _ in answers) == ["", "waiting for another"]
    assert_same_files(tmp_path / "c", pets / "unbroken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_directory_of_someone_elses_is_refused_and_left_alone(pets, tmp_path):
    """Where the cache would be made: without this program's mark nothing is deleted."""
    partial = tmp_path / "c.partial"
    partial.mkdir()
    (partial / "thesis.txt").write_text("my only copy")
    (partial / "train.images.npy").write_text("pictures of mine")
    source = sources.open_source(f"folder:{pets}/pets")
    for _ in range(2):
        with pytest.raises(UserError, match=r"c\.partial is there.* not of this program's making"):
            building.make_cache(source, 16, str(tmp_path / "c"), holdout=20)
        (partial / "progress.npz").write_bytes(b"PK\x03\x04 and no more")  # not even with this
    assert (partial / "thesis.txt").read_text() == "my only copy"
    assert (partial / "train.images.npy").read_text() == "pictures of mine"
    shutil.rmtree(partial)
    partial.write_text("a file")
    with pytest.raises(UserError, match="not of this program's making"):
        building.make_cache(source, 16, str(tmp_path / "c"), holdout=20)
    partial.unlink()
    partial.symlink_to(tmp_path)
    with pytest.raises(UserError, match="not of this program's making"):
        building.make_cache(source, 16, str(tmp_path / "c"), holdout=20)


@pytest.mark.parametrize("record", ["damaged", "missing", "none yet"])
def test_what_is_thrown_away_is_said(pets, tmp_path, capsys, record):
    """An attempt of this program's own whose record cannot be used; a file beside it stays."""
    out, partial = tmp_path / "c", tmp_path / "c.partial"
    source = sources.open_source(f"folder:{pets}/pets")
    journal.begin(partial)
    if record != "none yet":
        (partial / "train.images.npy").write_bytes(bytes(2_000_000))
    if record == "damaged":
        (partial / "progress.npz").write_bytes(b"PK\x03\x04 and no more")
    (partial / "notes.txt").write_text("mine")
    building.make_cache(source, 16, str(out), holdout=20)
    said = capsys.readouterr().out
    if record == "none yet":
        assert said == ""
    else:
        assert "c.partial is damaged (progress.npz" in said and said.count("\n") == 1
        assert "2.0 MB of images that it holds are thrown away" in said
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert_same_files(out, pets / "unbroken")


def test_a_preparation_of_a_version_without_mark_or_list_goes_on(pets, tmp_path, capsys):
    out, partial = tmp_path / "c", tmp_path / "c.partial"
    killed_half_way(pets, out)
    found = journal.recorded(partial)
    found.position.save(partial, {"settings": found.facts["settings"]})
    (partial / journal.MARK).unlink()
    (partial / listing.FILE).unlink()
    building.make_cache(sources.open_source(f"folder:{pets}/pets"), 16, str(out), holdout=20)
    assert capsys.readouterr().out == ""
    assert_same_files(out, pets / "unbroken")


def test_a_preparation_that_goes_on_with_other_libraries_says_so(
    pets, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "c"
    killed_half_way(pets, out)
    monkeypatch.setattr(cv2, "__version__", "99.1")
    building.make_cache(sources.open_source(f"folder:{pets}/pets"), 16, str(out), holdout=20)
    said = capsys.readouterr().out
    assert "c.partial was begun with OpenCV" in said and "(here 99.1)" in said
    origin = json.loads((out / "meta.json").read_text())["origin"]
    assert origin["versions"]["OpenCV"].endswith(" and 99.1")  # neither is taken for all of it


def test_what_is_there_is_not_overwritten_nor_taken_for_another(pets, tmp_path):
    source = sources.open_source(f"folder:{pets}/pets")
    again = building.make_cache(source, 16, str(pets / "unbroken"), holdout=20)
    assert again.fingerprint == store.open_cache(str(pets / "unbroken")).fingerprint
    with pytest.raises(UserError, match=r"unbroken is the cache of .*holdout=20; asked for"):
        building.make_cache(source, 16, str(pets / "unbroken"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    for taken in ("file", "folder"):
        with pytest.raises(UserError, match=f"{taken} is there and is no cache: give a new"):
            building.make_cache(source, 16, str(tmp_path / taken))
    assert (tmp_path / "folder" / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    linked = building.make_cache(source, 16, str(tmp_path / "link"), holdout=20)
    assert linked.fingerprint == again.fingerprint and (tmp_path / "empty" / "meta.json").exists()
