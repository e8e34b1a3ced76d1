"""Folders of images: every layout that people have, what is left out, and the refusals."""

import os
import pathlib
import tempfile
import threading

import data_fixtures as fixtures
import pytest
from data_fixtures import read, refused, touch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.data import sources
from alexnet_jax.data.photos import find_images
from alexnet_jax.data.sources.record import LeftOut
from alexnet_jax.errors import UserError


def test_folder(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 3, "val": 1}, ("dog", "cat"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    source = sources.open_source(f"folder:{tmp_path}")
    assert (source.name, source.class_names) == (f"folder:{tmp_path}", ("cat", "dog"))
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "validation": 2,
    }
    content = (tmp_path / "train" / "dog" / "0.png").read_bytes()
    assert source.splits["train"][3] == ("train/dog/0.png", 1, content)
    assert isinstance(source.splits["train"][3].label, int)
    assert read(source.splits["validation"]) == {"val/cat/0.png": 0, "val/dog/0.png": 1}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("listed", [False, True])
def test_the_names_of_a_validation_split(tmp_path, name, listed):
    """Of its folder, or of its list."""
    touch(tmp_path, "train/cat/1.png", "train/dog/2.png", f"{name}/dog/3.png")
    if listed:
        (tmp_path / f"{name}.txt").write_text("dog/3.png dog\n")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.splits.keys() == {"train", "validation"}
    assert read(source.splits["validation"]) == {f"{name}/dog/3.png": 1}


def test_folder_takes_images_at_any_depth_in_one_order(tmp_path):
    names = ["B.JPG", "a-1.png", "a/2.jfif", "a/b/3.webp", "a.tiff", "ä.jpe"]
    touch(tmp_path, *(f"train/cat/{name}" for name in names))
    touch(tmp_path, "train/cat/.a.jpg", "train/cat/.git/b.jpg", "train/.x/c.jpg", "train/d.jpg")
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "linked").symlink_to(tmp_path / "train/cat/a")
    train = sources.open_source(f"folder:{tmp_path}").splits["train"]
    with pytest.raises(OSError, match=r"train/cat/gone\.png: No such file"):
        train[5]
    assert [train[i].name for i in range(len(train)) if i != 5] == [
        "train/cat/B.JPG", "train/cat/a-1.png", "train/cat/a.tiff", "train/cat/a/2.jfif",
        "train/cat/a/b/3.webp", "train/cat/ä.jpe",
        "train/linked/2.jfif", "train/linked/b/3.webp",
    ]  # fmt: skip


def test_folder_identity_is_that_of_names_and_labels(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 2}, ("cat", "dog"))
    identities = {sources.open_source(f"folder:{tmp_path}").identity}
    (tmp_path / "train/cat/0.png").write_bytes(b"other")
    assert {sources.open_source(f"folder:{tmp_path}").identity} == identities
    (tmp_path / "train/cat/0.png").rename(tmp_path / "train/cat/7.png")
    identities.add(sources.open_source(f"folder:{tmp_path}").identity)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    identities.add(sources.open_source(f"folder:{tmp_path}").identity)
    (tmp_path / "train").rename(tmp_path / "test")
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    identities.add(sources.open_source(f"folder:{tmp_path}").identity)
    assert len(identities) == 4 and all(len(identity) == 64 for identity in identities)


def test_a_class_without_training_images_is_refused(tmp_path):
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    (tmp_path / "train" / "emu").mkdir()
    refused(tmp_path, "train/emu holds no images: fill or remove it")


def test_folder_errors(tmp_path):
    refused(tmp_path, r"there is no .*train, nor is there .*/<class>/\*\.jpg")
    fixtures.write_folder(tmp_path, {"train": 1}, ("cat", "dog"))
    fixtures.write_folder(tmp_path, {"validation": 1}, ("dog", "emu"))
    refused(tmp_path, r"classes that .*train lacks: emu")
    (tmp_path / "validation" / "emu").rename(tmp_path / "validation" / "cat")
    fixtures.write_folder(tmp_path, {"val": 1}, ("dog",))
    refused(tmp_path, "both val and validation")
    (tmp_path / "val").rename(tmp_path / "other")
    source = sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "train/cat/0.png").unlink()
    with pytest.raises(OSError, match=r"train/cat/0\.png: No such file"):
        source.splits["train"][0]
    (tmp_path / "train").rename(tmp_path / "training")
    refused(tmp_path, r"there is no .*train$")
    refused(tmp_path / "nowhere", "there is no ")
    (tmp_path / "training").rename(tmp_path / "train")
    (tmp_path / "train/loop").symlink_to(tmp_path / "train/loop")
    (tmp_path / "train/cat/0.png").write_text("")
    refused(tmp_path, r"train has a link to what is not there: .*train/loop\)")


def test_folder_whose_names_are_not_utf_8_is_refused(tmp_path):
    touch(tmp_path, "train/cat/1.png")
    file = os.fsencode(tmp_path) + b"/train/cat/\xe4.png"
    try:
        with open(file, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no such names")
    refused(tmp_path, r"not UTF-8: .*train/cat/\\udce4\.png")


def test_folder_without_splits_is_all_training(tmp_path):
    touch(tmp_path, "dog/1.jpg", "dog/more/2.jpg", "cat/3.jpg", "notes/readme.txt")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ("cat", "dog")
    assert source.splits.keys() == {"train"}
    assert read(source.splits["train"]) == {"cat/3.jpg": 0, "dog/1.jpg": 1, "dog/more/2.jpg": 1}
    # One level too high, or another word for a split: what would be classes are none.
    touch(tmp_path, "Training/cat/1.jpg")
    refused(tmp_path, r"expected .*/train/<class>.*Training has images in subfolders only")
    (tmp_path / "Training").rename(tmp_path / "test")
    refused(tmp_path, r"there is no .*train$")


def opened(root, inside=""):
    """The labels of each split, as the names of their classes; and what is left out."""
    source = sources.open_source(f"folder:{root}{inside}")
    names = source.class_names
    splits = {
        split: {name: names[label] for name, label in read(records).items()}
        for split, records in source.splits.items()
    }
    return splits, dict(source.left_out)


# --- ImageNet, small and large --------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "/ILSVRC", "/ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("place", [".", "ILSVRC", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"])
def test_imagenet_as_kaggle_gives_it(tmp_path, inside, place):
    """Flat `val` with its CSV file, which may have been moved; `test` without labels."""
    root = tmp_path / "ILSVRC/Data/CLS-LOC"
    touch(root, "train/n1/n1_1.JPEG", "train/n2/n2_7.JPEG", "test/t1.JPEG", "test/t2.JPEG")
    touch(root, "val/v1.JPEG", "val/v2.JPEG", "val/v3.JPEG")
    touch(tmp_path, "ILSVRC/ImageSets/CLS-LOC/val.txt", "ILSVRC/Annotations/x.xml")
    lines = "ImageId,PredictionString\nv2,n1 1 2 3 4 n1 5 6 7 8\nv1,n2 1 2 3 4\n"
    (tmp_path / place / "LOC_val_solution.csv").write_text(lines)
    splits, left_out = opened(tmp_path, inside)
    assert splits == {
        "train": {"train/n1/n1_1.JPEG": "n1", "train/n2/n2_7.JPEG": "n2"},
        "validation": {"val/v2.JPEG": "n1", "val/v1.JPEG": "n2"},
    }
    assert left_out.pop(".csv", 1) == 1  # where it lies among the images
    assert left_out == {"without labels": 2, "not in LOC_val_solution.csv": 1}
    (tmp_path / place / "LOC_val_solution.csv").unlink()
    refused(tmp_path, r"val has images, but not in class folders: list them .*val\.txt .*val\.csv")


def test_tiny_imagenet(tmp_path):
    touch(tmp_path, "train/n1/images/n1_0.JPEG", "train/n1/n1_boxes.txt")
    touch(tmp_path, "train/n2/images/n2_0.JPEG", "train/n2/n2_boxes.txt", "wnids.txt", "words.txt")
    touch(tmp_path, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG")
    lines = "val_0.JPEG\tn2\t0\t32\t44\t62\nval_1.JPEG\tn1\t52\t55\t57\t59\n"
    (tmp_path / "val/val_annotations.txt").write_text(lines)
    splits, left_out = opened(tmp_path)
    assert splits["validation"] == {"val/images/val_0.JPEG": "n2", "val/images/val_1.JPEG": "n1"}
    assert splits["train"]["train/n1/images/n1_0.JPEG"] == "n1"
    assert splits.keys() == {"train", "validation"}
    assert left_out == {".txt": 2, "without labels": 1}
    assert opened(tmp_path, "/train")[0]["train"].keys() == {
        "n1/images/n1_0.JPEG", "n2/images/n2_0.JPEG"
    }  # fmt: skip


def test_a_test_split_with_wrong_classes_is_refused_and_one_without_is_left_out(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/Cat/3.jpg", "test/Dog/4.jpg")
    refused(tmp_path, "test has classes that .*train lacks: Cat, Dog")
    (tmp_path / "test/Dog").rename(tmp_path / "test/cat")
    refused(tmp_path, "test has classes that .*train lacks: Cat")
    (tmp_path / "test/Cat").rename(tmp_path / "test/dog")
    assert opened(tmp_path)[0]["test"] == {"test/cat/4.jpg": "cat", "test/dog/3.jpg": "dog"}
    for name in ("cat", "dog"):
        for file in (tmp_path / "test" / name).iterdir():
            file.rename(tmp_path / "test" / file.name)
        (tmp_path / "test" / name).rmdir()
    (tmp_path / "test.csv").write_text("id\n3\n4\n")
    splits, left_out = opened(tmp_path)
    assert splits.keys() == {"train"} and left_out == {"without labels": 2}


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", ["train", "test", "val", "Train"])
def test_a_class_may_be_called_as_a_split_is(tmp_path, called):
    touch(tmp_path, "bus/1.jpg", "car/2.jpg", f"{called}/3.jpg", f"{called}/n.txt", "4.jpg")
    splits, left_out = opened(tmp_path)
    names = {"bus/1.jpg": "bus", "car/2.jpg": "car", f"{called}/3.jpg": called}
    assert splits == {"train": names}
    assert left_out == {"loose beside class folders": 1, ".txt": 1}
    # Where there are class folders in it, it is a split, and what lies beside it is counted.
    touch(tmp_path, *(f"{called}/{name}/5.jpg" for name in ("bus", "car")))
    if called.lower() == "train":
        splits, left_out = opened(tmp_path)
        assert len(splits["train"]) == 2
        assert left_out == {"loose beside class folders": 1, "beside the splits": 3}
    else:
        refused(tmp_path, "there is no .*train$")


def test_a_flat_train_beside_one_folder_is_no_class(tmp_path):
    """As in Kaggle's cats and dogs."""
    touch(tmp_path, "train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg")
    refused(tmp_path, "train has images, but not in class folders")


def test_splits_in_capitals(tmp_path):
    touch(tmp_path, "Train/cat/1.jpg", "Train/dog/2.jpg", "TEST/cat/3.jpg", "Val/4.jpg")
    (tmp_path / "val.txt").write_text("4.jpg dog\n")
    splits, _ = opened(tmp_path)
    assert list(splits) == ["train", "validation", "test"]
    assert splits["validation"] == {"Val/4.jpg": "dog"}
    touch(tmp_path, "train/cat/1.jpg")
    refused(tmp_path, "has both Train and train: keep one")


def test_class_folders_with_blanks_in_their_names(tmp_path):
    touch(tmp_path, "train/golden retriever/1.jpg", "train/golden/2.jpg", "train/ retriever/3.jpg")
    assert sources.open_source(f"folder:{tmp_path}").class_names == (
        " retriever", "golden", "golden retriever"
    )  # fmt: skip


# --- links, and what is no image ------------------------------------------------------------------


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
