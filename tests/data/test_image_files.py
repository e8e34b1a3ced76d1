"""Links, pipes, phones' formats: what is an image file in a folder, and the rest by its reason."""

import os
import pathlib
import tempfile
import threading

import data_fixtures as fixtures
import pytest
from data_fixtures import opened, read, refused, touch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.data import sources
from alexnet_jax.data.photos import find_images
from alexnet_jax.data.sources.record import LeftOut
from alexnet_jax.errors import UserError


def test_links_to_folders_are_followed_and_loops_are_noticed(tmp_path):
    data, disk = tmp_path / "data", tmp_path / "disk"
    touch(data, "train/cat/own.jpg", "train/cat/deep/own.jpg", "train/dog/own.jpg")
    touch(disk, "cats/1.jpg", "cats/more/2.jpg", "whole/dog/3.jpg")
    links = {
        "train/cat/disk": disk / "cats",
        "train/cat/again": disk / "cats",  # before 'disk' in order: its images have this name
        "train/cat/more": disk / "cats/more",
        "train/cat/self": data / "train/cat/self",
        "train/cat/deep/up": data / "train/cat",
        "train/cat/deep/top": data,
        "train/emu": disk / "whole/dog",
        "val": data / "train",
        "train/dog/file.jpg": disk / "cats/1.jpg",
    }
    for name, target in links.items():
        (data / name).symlink_to(target)
    splits, left_out = opened(data)
    assert splits["train"] == {
        "train/cat/again/1.jpg": "cat", "train/cat/again/more/2.jpg": "cat",
        "train/cat/deep/own.jpg": "cat", "train/cat/own.jpg": "cat",
        "train/dog/file.jpg": "dog", "train/dog/own.jpg": "dog", "train/emu/3.jpg": "emu",
    }  # fmt: skip
    assert len(splits["validation"]) == 7
    assert left_out == {
        "behind a link to what is read already": 2 * 4, "behind a broken link": 2
    }  # fmt: skip
    others = LeftOut()
    files, problems = find_images([str(data / "train/cat")], others)
    assert [file.removeprefix(f"{data}/train/cat/") for file in files] == [
        "again/1.jpg", "again/more/2.jpg", "deep/own.jpg", "own.jpg"
    ]  # fmt: skip
    assert not problems and others == {name: count / 2 for name, count in left_out.items()}


def test_folders_that_all_link_to_each_other_take_no_time(tmp_path):
    names = [f"{number:02}" for number in range(20)]
    touch(tmp_path, *(f"all/{name}/1.jpg" for name in names))
    for name in names:
        for other in names:
            (tmp_path / "all" / name / f"to{other}").symlink_to(tmp_path / "all" / other)
    assert len(find_images([str(tmp_path / "all/00")])[0]) == 20


def test_what_is_no_image_is_counted_and_named(tmp_path):
    for names in (
        "cup/1.HEIC cup/2.heif cup/a/3.jp2 cup/LICENSE cup/PyTorch cup/P6 loose.jpg",
        "cup/.hidden.jpg __MACOSX/cup/._1.jpg .DS_Store notes.txt",
    ):
        touch(tmp_path / "train", *names.split())
    for name in ("cup/1.jpg", "cup/flickr_1", "plate/2.png", "plate/dir.with.dots/3"):
        form = "PNG" if "plate" in name else "JPEG"
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(fixtures.encode(fixtures.photo(1), form))
    splits, left_out = opened(tmp_path)
    assert splits["train"] == {
        "train/cup/1.jpg": "cup", "train/cup/flickr_1": "cup",
        "train/plate/2.png": "plate", "train/plate/dir.with.dots/3": "plate",
    }  # fmt: skip
    expected = {"HEIC": 2, ".jp2": 1, "without a suffix": 3}
    assert left_out == expected | {"loose beside class folders": 1}
    text = str(sources.open_source(f"folder:{tmp_path}").left_out)
    assert text.startswith("left out: 3 without a suffix (such as train/cup/LICENSE), 2 HEIC (")
    assert "2 HEIC (such as train/cup/1.HEIC)" in text
    others = LeftOut()
    files, _ = find_images([f"{tmp_path}/train/cup/", f"{tmp_path}/train/plate"], others)
    assert len(files) == 4 and others == expected
    assert f"(such as {tmp_path}/train/cup/1.HEIC)" in str(others)


def test_a_class_of_nothing_but_heic_says_so(tmp_path):
    touch(tmp_path, "train/cup/1.heic", "train/mug/2.jpg")
    refused(tmp_path, r"cup holds no images \(left out: 1 HEIC \(such as train/cup/1\.heic\)\)")
    _, problems = find_images([str(tmp_path / "train/cup")])
    assert list(problems.values()) == [
        f"the folder holds no image files (left out: 1 HEIC (such as {tmp_path}/train/cup/1.heic))"
    ]
    # Without splits a folder without images is no class, and that is said as well.
    _, left_out = opened(tmp_path, "/train")
    assert left_out == {"HEIC": 1}


def test_a_pipe_is_not_waited_for(tmp_path):
    """Named, in a folder, behind a link, or in a list."""
    touch(tmp_path, "train/cup/1.jpg", "train/mug/2.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "train/cup/link.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "train/cup/none").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "test.txt").write_text("pipe.jpg 0\n")
    done, left_out = [], LeftOut()

    def look():
        refused(tmp_path, r"test\.txt:1: there is no .*pipe\.jpg")
        done.append(find_images([str(tmp_path), str(tmp_path / "pipe.jpg")], left_out))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    (files, problems), = done  # fmt: skip
    assert len(files) == 2 and left_out == {"pipe, socket or device": 3, ".txt": 1}
    assert problems == {str(tmp_path / "pipe.jpg"): "it is a pipe, socket or device, not a file"}


def test_a_long_text_of_what_is_left_out():
    left_out = LeftOut()
    assert not left_out
    for number in range(1, 10):
        left_out.add(f".{number}", f"b\n{number}", number)
        left_out.add(f".{number}", f"a{number}", 1000 * number)
    assert str(left_out).startswith("left out: 9,009 .9 (such as a9), 8,008 .8 (such as a8), ")
    assert str(left_out).endswith(".4 (such as a4), 6,006 others")
    left_out = LeftOut()
    left_out.add("HEIC", "two\nlines" + b"\xe4".decode(errors="surrogateescape"))
    assert str(left_out) == "left out: 1 HEIC (such as two\\nlines\ufffd)"


@pytest.mark.skipif(os.name == "nt", reason="any bytes are a name on POSIX systems alone")
def test_a_root_that_is_not_utf_8_is_refused(tmp_path):
    root = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        touch(root, "cat/1.jpg", "dog/2.jpg")
    except OSError:
        pytest.skip("this file system takes no such names")
    refused(root, r"caf\\xe9': the path is not UTF-8: rename that directory")


FOLDERS = ("train", "Train", "val", "test", "cat", "dog", "train 2", "images", ".git", "ILSVRC")
FILES = ("1.jpg", "2.png", "3.heic", "4", ".5.jpg", "train.txt", "val.csv", "test.txt", "a.xml")
TEXTS = ("", "1.jpg 0\n", "1.jpg,cat\n", "file,label\n1,cat\n2,dog\n", "1.jpg\tcat\t\n", "\0\n,\n")


@settings(max_examples=100, deadline=None)
@given(
    places=st.lists(
        st.tuples(st.lists(st.sampled_from(FOLDERS), max_size=3), st.sampled_from(FILES)),
        max_size=12,
    ),
    links=st.lists(
        st.tuples(*[st.lists(st.sampled_from(FOLDERS), min_size=1, max_size=2)] * 2), max_size=2
    ),
    texts=st.lists(st.sampled_from(TEXTS), min_size=12, max_size=12),
)
def test_any_tree_is_read_or_refused_and_nothing_is_left_out_unsaid(places, links, texts):
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for (folders, file), text in zip(places, texts):
            path = root.joinpath(*folders, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if path.suffix in (".txt", ".csv") else "an image")
        for target, link in links:
            place = root.joinpath(*link)
            if not place.is_symlink() and not place.exists() and place.parent.is_dir():
                place.symlink_to(root.joinpath(*target))
        try:
            source = sources.open_source(f"folder:{root}")
        except UserError as error:
            assert "\n" not in str(error)
            return
        records = [record for split in source.splits.values() for record in read(split)]
        used = {os.path.realpath(root / record) for record in records}
        there = {
            os.path.realpath(path)
            for path in root.rglob("[1-3]*")
            if not any(part.startswith(".") for part in path.relative_to(root).parts)
        }
        assert used <= there
        # What a list does not name is counted in its own folder alone, if it has one.
        lists = any(not (root / path.stem).is_dir() for path in root.glob("*.[ct][sx][vt]"))
        assert used == there or source.left_out or lists
