"""Without a cache: the same pixels, each file read once."""

import collections
import dataclasses
import re
import shlex

import data_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax import prepare
from alexnet_jax.data import dataset, on_demand, sources, stream
from alexnet_jax.data.cache import building, store
from alexnet_jax.errors import UserError


def test_undecoded_gives_the_pixels_of_the_cache(pets):
    cache = store.open_cache(str(pets / "unbroken"))
    source = sources.open_source(f"folder:{pets}/pets")
    direct = on_demand.open_undecoded(source, 16, holdout=20)
    for split in ("train", "validation", "test"):
        assert direct.images[split].shape == cache.images[split].shape
        np.testing.assert_array_equal(direct.images[split][:], cache.images[split])
        np.testing.assert_array_equal(direct.labels[split][:], cache.labels[split])
        rows = np.array([3, 1])
        np.testing.assert_array_equal(direct.labels[split][rows], cache.labels[split][rows])
        window = (2, slice(3, 9), slice(4, None))
        np.testing.assert_array_equal(direct.images[split][window], cache.images[split][window])
        assert direct.images[split][2:2].shape == (0, 16, 16, 3)
    np.testing.assert_array_equal(direct.mean_image, cache.mean_image)  # fewer than the sample
    np.testing.assert_array_equal(direct.eigenvalues, cache.eigenvalues)
    again = on_demand.open_undecoded(source, 16, holdout=20)
    assert again.fingerprint == direct.fingerprint
    assert on_demand.open_undecoded(source, 20, holdout=20).fingerprint != direct.fingerprint


def test_undecoded_names_a_bad_image(spoilt):
    with pytest.raises(UserError, match=r"dog/(17|21)\.png cannot be used"):
        on_demand.open_undecoded(spoilt, 16)


def test_undecoded_names_a_file_that_is_gone(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 6}, ("cat", "dog"))
    cache = on_demand.open_undecoded(sources.open_source(f"folder:{tmp_path}/pets"), 16)
    (tmp_path / "pets" / "train" / "cat" / "3.png").unlink()
    with pytest.raises(UserError, match=r"cannot be read \(.*cat/3\.png: No such.*or prepare a"):
        cache.images["train"][:]


def test_undecoded_tfds_gives_the_pixels_of_its_cache(tmp_path):
    fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    source = sources.open_source("tfds:tiny_photos", str(tmp_path))
    cache = building.make_cache(source, 16, str(tmp_path / "c"))
    direct = on_demand.open_undecoded(source, 16)
    assert list(direct.images) == list(cache.images) == ["train", "validation"]
    for split in cache.images:
        np.testing.assert_array_equal(direct.images[split][:], cache.images[split])
        np.testing.assert_array_equal(direct.labels[split][:], cache.labels[split])


class Counted:
    """A split that counts how often each image is read; its labels it knows, or not."""

    def __init__(self, split, labelled: bool):
        self.split, self.reads = split, collections.Counter()
        if labelled:
            self.label = split.label

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.split[index]


@pytest.mark.parametrize("labelled", [True, False])
def test_each_file_is_read_once(pets, labelled):
    """In an epoch of training, and in a test; once more at the start for the mean image."""
    source = sources.open_source(f"folder:{pets}/pets")
    splits = {name: Counted(split, labelled) for name, split in source.splits.items()}
    cache = on_demand.open_undecoded(dataclasses.replace(source, splits=splits), 16)
    train, test = splits["train"], splits["test"]
    assert set(train.reads.values()) == {1} and len(train.reads) == 300 and not test.reads
    train.reads.clear()
    options = {"batch_size": 100, "crop": 12, "seed": 1, "threads": 1}
    batches = iter(stream.training_stream(cache, **options))
    found = [next(batches) for _ in range(3)]
    batches.close()
    ahead = 300 * 2  # of the next epochs, read ahead
    assert sum(train.reads.values()) <= 300 + ahead
    assert max(train.reads.values()) <= 1 + ahead // 300
    for batch in found:
        assert set(batch["label"]) == {0, 1, 2}
    for batch in stream.evaluation_batches(cache.images["test"], cache.labels["test"], 5):
        assert batch["weight"].sum() in (5, 2)
    assert set(test.reads.values()) == {1} and len(test.reads) == 12


def test_labels_are_known_without_reading(pets):
    source = sources.open_source(f"folder:{pets}/pets")
    splits = {name: Counted(split, True) for name, split in source.splits.items()}
    cache = on_demand.open_undecoded(dataclasses.replace(source, splits=splits), 16, holdout=20)
    splits["train"].reads.clear()
    assert len(cache.labels["train"][:]) == 280 and cache.labels["validation"][3] in (0, 1, 2)
    assert not splits["train"].reads


def test_the_message_about_a_bad_image_has_the_whole_command(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 4}, ("cat", "dog"))
    (tmp_path / "pets" / "train" / "cat" / "1.png").write_text("a poem")
    with pytest.raises(UserError, match=r"cat/1\.png cannot be used") as said:
        dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path), path="none")
    command = re.search(r"`python -m alexnet_jax\.prepare ([^`]*)`", str(said.value))[1]
    assert prepare.main(shlex.split(command)) == 0
    assert (
        len(dataset.ensure_cache(f"folder:{tmp_path}/pets", 16, str(tmp_path)).images["train"]) == 7
    )
