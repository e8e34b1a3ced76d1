"""ILSVRC-2012's two tars: real ones of a small layout, every way they can be wrong, the lists."""

import collections
import io
import os
import pickle
import re
import tarfile
from concurrent import futures

import data_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.data import decoding, sources
from alexnet_jax.data.cache import building
from alexnet_jax.data.sources import ilsvrc
from alexnet_jax.errors import UserError

WNIDS = ("n01440764", "n02105855", "n13037406")
COUNTS = (2, 4, 3)
LAYOUT = ilsvrc.Layout(WNIDS, sum(COUNTS), range(2, 5), validation_labels=(2, 0, 1, 1, 0))
FORMS = (("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGB"))  # all named .JPEG
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def train_images():
    """Content by wnid and name, in the order that the tars get."""
    numbers = iter((10026, 3, 99, 2933, 10000, 18, 7, 4650, 36))
    pictures = (fixtures.encode(fixtures.photo(i), *FORMS[i % 4]) for i in range(sum(COUNTS)))
    return {
        wnid: {f"{wnid}_{next(numbers)}.JPEG": next(pictures) for _ in range(count)}
        for wnid, count in zip(WNIDS, COUNTS)
    }


def validation_images():
    return {
        f"ILSVRC2012_val_{number:08}.JPEG": fixtures.encode(fixtures.photo(20 + number))
        for number in (4, 1, 5, 3, 2)
    }


def tar_of(members, form=tarfile.GNU_FORMAT):
    """The bytes of a tar with these (name, content); None makes a directory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mtime = 1340000000.5  # PAX writes a header of its own for the fraction
            if content is None:
                member.type = tarfile.DIRTYPE
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


def write_tars(directory, train=None, validation=None, form=tarfile.GNU_FORMAT):
    train = train_images() if train is None else train
    validation = validation_images() if validation is None else validation
    classes = {f"{wnid}.tar": tar_of(images.items(), form) for wnid, images in train.items()}
    (directory / TRAIN).write_bytes(tar_of(reversed(classes.items()), form))
    (directory / VALIDATION).write_bytes(tar_of(validation.items(), form))


def refused(directory, match, layout=LAYOUT):
    with pytest.raises(UserError, match=match) as caught:
        ilsvrc.open_ilsvrc(str(directory), layout)
    return str(caught.value)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_record(tmp_path, form):
    write_tars(tmp_path, form=form)
    (tmp_path / "ILSVRC2012_img_test_v10102019.tar").write_bytes(b"not looked at")
    source = ilsvrc.open_ilsvrc(str(tmp_path), LAYOUT)
    assert (source.name, source.class_names) == (f"ilsvrc:{tmp_path}", WNIDS)
    assert list(source.splits) == ["train", "validation"]
    expected = {
        "train": [
            (f"{wnid}/{name}", label, content)
            for label, (wnid, images) in enumerate(train_images().items())
            for name, content in sorted(images.items())
        ],
        "validation": [
            (name, label, content)
            for label, (name, content) in zip((2, 0, 1, 1, 0), sorted(validation_images().items()))
        ],
    }
    for name, split in source.splits.items():
        records = [split[i] for i in range(len(split))]
        assert records == expected[name]
        assert {tuple(map(type, record)) for record in records} == {(str, int, bytes)}
        order = np.random.default_rng(0).integers(0, len(split), 400).tolist()
        with futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(split.__getitem__, order)) == [records[i] for i in order]
        assert pickle.loads(pickle.dumps(split))[0] == records[0]


def test_identity_is_that_of_names_and_labels(tmp_path):
    def identity(**changes):
        write_tars(tmp_path, **changes)
        return ilsvrc.open_ilsvrc(str(tmp_path), LAYOUT).identity

    train = train_images()
    first = identity()
    assert re.fullmatch("[0-9a-f]{64}", first)
    reordered = {wnid: dict(reversed(train[wnid].items())) for wnid in reversed(WNIDS)}
    assert identity(train=reordered, form=tarfile.PAX_FORMAT) == first
    train[WNIDS[0]][f"{WNIDS[0]}_4.JPEG"] = train[WNIDS[0]].pop(f"{WNIDS[0]}_3.JPEG")
    assert identity(train=train) != first


def test_what_is_missing_and_where_it_is_to_be_had(tmp_path):
    for name in (TRAIN, VALIDATION):
        write_tars(tmp_path)
        (tmp_path / name).unlink()
        match = rf"there is no .*{name}.*{TRAIN} and {VALIDATION}.*image-net\.org.* account"
        refused(tmp_path, match)
        with pytest.raises(UserError, match=match):  # before anything is asked of TFDS's lists
            sources.open_source(f"ilsvrc:{tmp_path}")


def test_a_tar_that_may_not_be_read(tmp_path, monkeypatch):
    write_tars(tmp_path)

    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    refused(tmp_path, rf"cannot be read: .*Permission denied: .*{VALIDATION}")


def test_a_small_layout_is_not_the_challenge(tmp_path):
    write_tars(tmp_path)
    with pytest.raises(UserError, match=r"it holds 5 of 50,000 images.*6,744,924,160 bytes, this"):
        sources.open_source(f"ilsvrc:{tmp_path}")


ONE = {"n01440764_1.JPEG": b"x"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n02105855": {"n01440764_5.JPEG": b"x"}}, r"n02105855\.tar is not .*holds n01440764_5\."),
        ({"n01440764": ONE | {"n01440764_2.jpg": b"x"}}, r"holds n01440764_2\.jpg, expected n0144"),
        ({"n01440764": ONE | {"x/n01440764_2.JPEG": b"x"}}, r"holds x/n01440764_2\.JPEG"),
        ({"n01440764": ONE | {"n01440764_2.JPEG": b""}}, r"n01440764\.tar is .*_2\.JPEG is empty"),
        ({"n01440764": ONE | {"n01440764_2.JPEG": None}}, r"_2\.JPEG is no plain file"),
        ({"n01440764": ONE}, r"n01440764\.tar is .*holds 1 images, expected 2 to 4"),
        ({"n01440764": {}}, r"n01440764\.tar is .*holds 0 images, expected 2 to 4"),
        ({"n00000001": ONE}, r"holds n00000001\.tar, expected the tars of n01440764, n02105855"),
        ({"x": ONE}, r"holds x\.tar, expected the tars"),
        ({"n01440764": ONE | {"n01440764_2.JPEG": b"x", "n01440764_3.JPEG": b"x"}}, "10 .*cted 9"),
    ],
)
def test_training_tar_refusals(tmp_path, change, error):
    write_tars(tmp_path, train=train_images() | change)
    text = refused(tmp_path, error)
    assert f"{tmp_path / TRAIN}" in text and "147,897,477,120 bytes" in text
    assert f"this one {(tmp_path / TRAIN).stat().st_size:,}: download it again from https" in text


def test_missing_classes_are_named(tmp_path):
    write_tars(tmp_path, train={WNIDS[1]: train_images()[WNIDS[1]]})
    refused(tmp_path, "lacks the classes n01440764, n13037406")
    many = ilsvrc.Layout(tuple(sorted(WNIDS + tuple("abcdefg"))), 9, range(9), (0,) * 5)
    refused(tmp_path, "lacks the classes a, b, c, d, e and 4 more", many)


def test_duplicates_are_refused(tmp_path):
    write_tars(tmp_path)
    classes = [(f"{wnid}.tar", tar_of(images.items())) for wnid, images in train_images().items()]
    (tmp_path / TRAIN).write_bytes(tar_of([*classes, classes[0]]))
    refused(tmp_path, r"holds n01440764\.tar twice")
    images = list(train_images()[WNIDS[0]].items())
    classes[0] = classes[0][0], tar_of([*images, images[0]])
    (tmp_path / TRAIN).write_bytes(tar_of(classes))
    refused(tmp_path, r"holds n01440764/n01440764_10026\.JPEG twice")
    images = list(validation_images().items())
    (tmp_path / VALIDATION).write_bytes(tar_of([*images, images[0]]))
    refused(tmp_path, r"holds ILSVRC2012_val_00000004\.JPEG twice")


@pytest.mark.parametrize("name", ["6", "0", "123456789"])
def test_validation_images_are_one_to_the_last(tmp_path, name):
    images = validation_images()
    content = images.pop("ILSVRC2012_val_00000003.JPEG")
    write_tars(tmp_path, validation=images)
    refused(tmp_path, "holds 4 of 5 images, expected ILSVRC2012_val_00000001.JPEG to .*5.JPEG")
    images[f"ILSVRC2012_val_{name:0>8}.JPEG"] = content
    write_tars(tmp_path, validation=images)
    refused(tmp_path, rf"{VALIDATION} is not .*holds ILSVRC2012_val_0*{name}\.JPEG, expected")
    write_tars(tmp_path, validation={"val": None} | validation_images())
    refused(tmp_path, "val is no plain file")
    write_tars(tmp_path, validation={"cat.JPEG": b"x"})
    refused(tmp_path, r"holds cat\.JPEG, expected")


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
def test_a_tar_cut_anywhere_is_refused(tmp_path, name):
    write_tars(tmp_path)
    whole = (tmp_path / name).read_bytes()
    end = len(whole.rstrip(b"\0"))  # the zeros behind mark the end; without them all is there
    for length in [0, 100, 512, 600, *range(1024, end, 1024), end - 1]:
        (tmp_path / name).write_bytes(whole[:length])
        refused(tmp_path, rf"{name}.* is not the one of ILSVRC-2012")
    (tmp_path / name).write_bytes(b"<html>" * 1000)
    refused(tmp_path, "cannot be read as a tar")


def test_a_damaged_class_tar_is_refused(tmp_path):
    write_tars(tmp_path)
    whole = (tmp_path / TRAIN).read_bytes()
    for name, error in (
        (b"n02105855_99.JPEG", r"n02105855\.tar is not .*cannot be read as a tar"),  # its first
        (b"n02105855_2933.JPEG", r"n02105855\.tar is not .*header at byte [0-9,]+ is damaged"),
        (b"n01440764.tar", r"header at byte [0-9,]+ is damaged"),
    ):
        at = whole.index(name)
        (tmp_path / TRAIN).write_bytes(whole[:at] + b"m" + whole[at + 1 :])
        refused(tmp_path, error)


def test_a_tar_that_shrinks_while_it_is_read_says_which_image(tmp_path):
    write_tars(tmp_path)
    split = ilsvrc.open_ilsvrc(str(tmp_path), LAYOUT).splits["validation"]
    with (tmp_path / VALIDATION).open("r+b") as file:
        file.truncate(700)
    with pytest.raises(OSError, match=r"img_val\.tar: ILSVRC2012_val_00000002\.JPEG: .* shorter"):
        split[1]


def test_the_official_layout():
    layout = ilsvrc.official_layout()
    assert len(layout.wnids) == len(set(layout.wnids)) == 1000
    assert all(re.fullmatch("n[0-9]{8}", wnid) for wnid in layout.wnids)
    assert list(layout.wnids) == sorted(layout.wnids)
    assert (layout.wnids[0], layout.wnids[999]) == ("n01440764", "n15075141")
    assert len(layout.validation_labels) == 50_000
    assert set(collections.Counter(layout.validation_labels).values()) == {50}
    # What the first validation images show: a sea snake, an alp, a Shetland sheepdog.
    assert [layout.wnids[label] for label in layout.validation_labels[:3]] == [
        "n01751748",
        "n09193705",
        "n02105855",
    ]
    assert (layout.train_count, layout.per_class[0], layout.per_class[-1]) == (1_281_167, 732, 1300)


def test_the_tars_become_a_cache(tmp_path):
    write_tars(tmp_path)
    source = ilsvrc.open_ilsvrc(str(tmp_path), LAYOUT)
    cache = building.make_cache(source, 32, str(tmp_path / "cache"))
    assert (len(cache.images["train"]), len(cache.images["validation"])) == (9, 5)
    encoded = {name: content for of in train_images().values() for name, content in of.items()}
    for image, (label, _, name) in zip(cache.images["train"], cache.rows("train"), strict=True):
        wnid, _, file = name.partition("/")
        assert WNIDS[label] == wnid
        np.testing.assert_array_equal(image, decoding.load(encoded[file], 32))
    names = [name for _, _, name in cache.rows("validation")]
    assert names == sorted(validation_images())
    assert cache.labels["validation"].tolist() == list(LAYOUT.validation_labels)


def test_a_system_without_pread_is_told_of(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pread")
    with pytest.raises(UserError, match=r"no os\.pread: extract the tars and give folder"):
        sources.open_source(f"ilsvrc:{tmp_path}")
