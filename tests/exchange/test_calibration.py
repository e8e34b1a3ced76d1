"""The images that an int8 export is calibrated with: the run's own, or others that are named."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained_fixtures
from onnx import numpy_helper

from alexnet_jax import settings
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange import exporting

CROP = 96


def test_calibration_images_are_from_all_over_the_training_split(
    network: TrainedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All where they are few; otherwise as many as are wanted, from the first to the last."""
    data = network.config.data
    images = ensure_cache(data.source, data.size, data.dir).images["train"]
    np.testing.assert_array_equal(
        exporting.calibration_pixels(network), exporting.central(images, CROP)
    )
    monkeypatch.setattr(exporting, "CALIBRATION", 3)
    some = exporting.central(images[[0, 5, 11]], CROP)
    np.testing.assert_array_equal(exporting.calibration_pixels(network), some)


def test_int8_is_calibrated_with_all_it_is_given(network: TrainedNetwork) -> None:
    """A loud image at the very end, in another batch, widens the range of what follows."""
    pixels = exporting.central(trained_fixtures.pictures(40, seed=1), CROP)
    quiet = np.uint8(0.5 * pixels + 60)
    loud = np.concatenate([quiet[:-1], np.uint8(255 * (pixels[-1:] > 120))])
    scales = []
    for given in (quiet, loud):
        model = exporting.to_onnx(network, "int8", given)
        arrays = {array.name: array for array in model.graph.initializer}
        layer = next(node for node in model.graph.node if node.op_type == "Conv")
        (values,) = (node for node in model.graph.node if layer.input[0] in node.output)
        scales.append(float(numpy_helper.to_array(arrays[values.input[1]])))
    assert scales[1] > 1.3 * scales[0]


def test_int8_without_its_dataset(workdir: Path, tmp_path: Path) -> None:
    """What is missing is named, and nothing is written."""
    config = settings.read(workdir / "config.json")
    moved = tmp_path / "moved"
    shutil.copytree(workdir, moved)
    config.data.source = "folder:/nowhere"
    config.data.dir = str(tmp_path / "data")
    settings.save(config, moved / "config.json")
    with pytest.raises(UserError, match=r"there is no /nowhere/train.*give --cache=DIR.*files"):
        exporting.export(moved, tmp_path / "x.onnx", "onnx", precision="int8")
    assert not (tmp_path / "x.onnx").exists()


def test_int8_with_images_from_elsewhere(
    network: TrainedNetwork,
    workdir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From files and folders, from a cache that is named, and from a run without a cache, which
    needs no statistics: each of them is asked for the pictures and no other."""
    data = network.config.data
    cache = ensure_cache(data.source, data.size, data.dir)
    expected = exporting.central(cache.images["train"], CROP)

    def found(source: str, directory: str | None, path: str | None, *given: Any) -> np.ndarray:
        with monkeypatch.context() as patch:
            for field, value in {"source": source, "dir": directory, "cache": path}.items():
                patch.setitem(data, field, value)
            return exporting.calibration_pixels(network, exporting.Calibration(*given))

    nowhere = ("folder:/nowhere", str(tmp_path))
    np.testing.assert_array_equal(found(*nowhere, None, (), cache.path), expected)
    np.testing.assert_array_equal(found(data.source, data.dir, "none"), expected)
    folder = str(workdir.parent / "images" / "train")
    (tmp_path / "poem.jpg").write_text("no image")
    files = (folder, str(tmp_path / "poem.jpg"))
    images = found(*nowhere, None, files)
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected))
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of the files to calibrate with can be used"):
        found(*nowhere, None, files[1:])
