"""Folders of images that several files of tests prepare."""

import pathlib

import data_fixtures as fixtures
import pytest

from alexnet_jax.data import sources
from alexnet_jax.data.cache import building
from alexnet_jax.data.sources.record import Source


@pytest.fixture(scope="session")
def pets(tmp_path_factory) -> pathlib.Path:
    """A folder of 300 + 12 images, and beside it the cache that an unbroken preparation makes."""
    root = tmp_path_factory.mktemp("pets")
    fixtures.write_folder(root / "pets", {"train": 100, "test": 4}, ("cat", "dog", "emu"))
    source = sources.open_source(f"folder:{root}/pets")
    building.make_cache(source, 16, str(root / "unbroken"), holdout=20, workers=1)
    return root


@pytest.fixture
def spoilt(tmp_path) -> Source:
    """80 + 80 training images, two of them spoilt, and 3 + 3 to test with, one of them spoilt."""
    fixtures.write_folder(tmp_path / "pets", {"train": 80, "test": 3}, ("cat", "dog"))
    (tmp_path / "pets" / "train" / "dog" / "17.png").write_bytes(b"\x89PNG but no more")
    (tmp_path / "pets" / "train" / "dog" / "21.png").write_bytes(b"")
    (tmp_path / "pets" / "test" / "cat" / "1.png").write_text("a poem")
    return sources.open_source(f"folder:{tmp_path}/pets")
