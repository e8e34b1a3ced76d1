"""The first command of the README, held to what the README promises: `pytest -m slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax.evaluation.scores import interval

SUMMARY = Path(__file__).parents[2] / "experiments" / "results" / "embedded" / "summary.json"


@pytest.mark.slow
def test_the_embedded_run_keeps_its_promise(tmp_path: Path) -> None:
    """Its ten-view error is within what 2,000 test images say of the worst of the five seeds."""
    command = [sys.executable, "-m", "alexnet_jax.main", f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, f"--config.data.dir={tmp_path}"], check=True, env=environment)
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (row,) = (row for row in rows if (row["split"], row["views"]) == ("test", 10))
    assert row["examples"] == 2000
    promised = json.loads(SUMMARY.read_text())["worst_ten_view_top1_error"]
    assert row["top1_error"] <= interval(promised, 2000)[1]
