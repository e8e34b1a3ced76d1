"""Whether networks start: what is changed, what is read off, and that nothing is done twice."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_jax import settings
from experiments import starts

SMALL = (
    "data.source=embedded/tiny", "data.size=104", "model.input_size=96", "batch_size=4",
    "model.conv1.width=4", "model.conv2.width=8", "model.conv3.width=8", "model.conv4.width=8",
    "model.conv5.width=8", "model.fc6.width=16", "model.fc7.width=16",
)  # fmt: skip


@pytest.mark.parametrize("variant", starts.VARIANTS)
def test_a_variant_is_the_full_network_but_for_its_change(variant: str) -> None:
    """And each differs from all others."""
    found = settings.flatten(starts.configuration(variant, []))
    assert found["model.fc6.width"] == 4096 and found["data.size"] == 256
    others = [
        settings.flatten(starts.configuration(v, [])) for v in starts.VARIANTS if v != variant
    ]
    assert found not in others
    assert (found["model.conv4.bias"] == 1) == ("biases" not in variant)
    assert (found["data.lighting_divisor"] == 70) == ("unit" in variant)


def test_a_run_has_started_when_its_loss_is_below_that_of_chance() -> None:
    """By the tens of steps."""
    row: dict[str, Any] = {"chance": 3.0, "losses": [3.0, 2.9, 2.69, 3.0]}
    assert starts.started(row) == 30
    assert starts.started(row | {"losses": [3.0, 2.71]}) is None


def test_it_has_started_for_good_when_its_loss_stays_there() -> None:
    """A leap on the way begins it anew."""
    row: dict[str, Any] = {"chance": 3.0}
    for losses, step in (
        ([3.0, 2.6, 7.0, 2.6, 1.0], 40), ([2.6, 1.0], 10), ([2.6, 1.0, 2.8], None), ([3.0], None),
    ):  # fmt: skip
        assert starts.started_for_good(row | {"losses": losses}) == step


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real steps of a small network, probed before and after; a second time nothing is done."""
    arguments = ["--variants=reconciled", "--seeds=1", "--steps=20", f"--out={tmp_path / 'out'}"]
    arguments += [f"--set=data.dir={tmp_path}", *(f"--set={field}" for field in SMALL)]
    starts.main(arguments)
    (row,) = json.loads((tmp_path / "out" / "starts.json").read_text())["runs"]
    assert len(row["losses"]) == 2 and len(row["probes"]) == 3
    assert row["losses"][0] == pytest.approx(math.log(20), abs=1)
    assert row["chance"] == pytest.approx(math.log(20))
    for probe in row["probes"]:
        assert probe["spread"] > 0 and set(probe["active"]) == {
            "conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7",
        }  # fmt: skip
        assert all(0 <= share <= 1 for share in probe["active"].values())
    assert row["probes"][0]["active"]["fc7"] > 0.9  # biases of 1
    assert "| reconciled | " in (tmp_path / "out" / "starts.md").read_text()
    assert (tmp_path / "out" / "starts.png").stat().st_size > 5000
    journal = (tmp_path / "out" / "starts.jsonl").read_text()
    starts.main(arguments)
    assert (tmp_path / "out" / "starts.jsonl").read_text() == journal
    arguments[0], arguments[2] = "--variants=unit-pixels", "--steps=10"
    starts.main(arguments)  # beside the other, but not in one table with it
    (row,) = json.loads((tmp_path / "out" / "starts.json").read_text())["runs"]
    assert row["variant"] == "unit-pixels" and len(row["losses"]) == 1
    assert (tmp_path / "out" / "starts.jsonl").read_text().startswith(journal)
    capsys.readouterr()


def test_what_sees_divided_images_is_probed_so() -> None:
    """A 70th of the image through the same kernels is the image through a 70th of them; biases and
    the other layers stay."""
    conv1 = {"kernel": np.full((3, 3, 3, 2), 7.0), "bias": np.ones(2)}
    variables = {"params": {"conv1": conv1, "fc8": {"kernel": np.ones(1)}}, "batch_stats": {}}
    found = starts.divided(variables, 70.0)
    np.testing.assert_allclose(found["params"]["conv1"]["kernel"], 0.1)
    assert found["params"]["conv1"]["bias"] is conv1["bias"]
    assert found["params"]["fc8"] is variables["params"]["fc8"]
    assert conv1["kernel"][0, 0, 0, 0] == 7
