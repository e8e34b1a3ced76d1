"""Folders of images: every layout that people have, what is left out, and the refusals."""

import os

import data_fixtures as fixtures
import pytest
from data_fixtures import opened, read, refused, touch

from alexnet_jax.data import sources


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
    (tmp_path / place / "LOC_val_solution.csv").write_text(lines + "v3, \n")
    refused(tmp_path, r"LOC_val_solution\.csv:4: ")
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
