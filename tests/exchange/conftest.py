"""The network that several files of tests export."""

from pathlib import Path

import data_fixtures
import pytest
import trained_fixtures

import alexnet_jax
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model import make_mesh


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network, with a folder of images to calibrate with."""
    path = tmp_path_factory.mktemp("run")
    data_fixtures.write_folder(path / "images", {"train": 6}, ("a", "b"))
    data = (f"data.source=folder:{path}/images", f"data.dir={path}/data")
    trained_fixtures.save_network(path / "run", None, 0, *data)
    return path / "run"


@pytest.fixture(scope="module")
def network(workdir: Path) -> TrainedNetwork:
    """The same, loaded on one device."""
    return alexnet_jax.load(workdir, mesh=make_mesh(1, 1))
