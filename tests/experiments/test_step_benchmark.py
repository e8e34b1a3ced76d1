"""The benchmark of the step: that its rivals compute the same, and that its sums are right."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
from typing import Any

import network_fixtures as fixtures
import numpy as np
import pytest

from experiments.step import contenders

ROOT = pathlib.Path(__file__).parents[2]
TORCH = importlib.util.find_spec("torch") is not None
ONNX = all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))

CONFIG = """
import dataclasses
from ml_collections import ConfigDict
from alexnet_jax.configs import base
from network_fixtures import small_network

def get_config():
    config = base.get_config()
    config.model = ConfigDict(dataclasses.asdict(small_network()))
    return config
"""


def benchmark(folder: pathlib.Path, *flags: str) -> tuple[dict[str, Any], str]:
    """A tiny run, by its command: the JSON file and the page."""
    (folder / "tiny.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n{CONFIG}"
    )
    out = folder / "new" / "step.json"
    command = [sys.executable, "-m", "experiments.step", *flags, "--rounds=2"]
    command += ["--seconds=0.001", f"--config={folder}/tiny.py", "--batch=4", f"--out={out}"]
    cores = os.sched_getaffinity(0)
    # With threads for all cores OpenMP crawls where another process wants one of them too.
    os.sched_setaffinity(0, {random.choice(sorted(cores))})
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    finally:
        os.sched_setaffinity(0, cores)
    assert done.returncode == 0, done.stderr
    page = out.with_suffix(".md").read_text()
    assert page in done.stdout
    return json.loads(out.read_text()), page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Training and inference; PyTorch's compiler is left out, it takes its time."""
    rivals = "*/torch_eager_nchw_window,*/torch_eager_channels_last_band,*/onnx_*"
    return benchmark(tmp_path_factory.mktemp("step"), f"--only=*/jax_1x*,*/jax_plain,{rivals}")


def test_all_that_is_timed_has_agreed(run) -> None:
    """This network on its meshes, the plain one, PyTorch's and ONNX's."""
    result, _ = run
    found = {row["key"]: row["difference"] for row in result["rows"] if row["group"] != "limits"}
    expected = [f"training_4/jax_{name}" for name in ("1x1", "1x2", "plain")]
    eager = ["nchw_window", "channels_last_band"]
    expected += [f"training_4/torch_eager_{name}" for name in eager] * TORCH
    for batch in (32, 1):
        expected += [f"inference_{batch}/jax_{name}" for name in ("1x1", "plain")]
        expected += [f"inference_{batch}/torch_eager_{name}" for name in eager] * TORCH
        expected += [f"inference_{batch}/onnx_{lrn}" for lrn in ("window", "band")] * ONNX
    assert list(found) == expected
    for key, difference in found.items():
        assert (difference is None) == key.endswith("jax_1x1")
        assert difference is None or difference < 1e-4, key


def test_what_was_not_run_is_listed(run) -> None:
    """With the reason; targets of it are neither reached nor missed."""
    result, page = run
    reasons = {row["key"]: row["reason"] for row in result["not_run"]}
    if TORCH:
        assert reasons["training_4/torch_compiled_nchw_band"] == "left out by --only"
    else:
        assert reasons["training_4/ways_torch"] == "torch is not installed"
    assert ONNX or "is not installed" in reasons["inference_1/ways_onnx"]
    for key in ("startup/cold", "gpu/images_per_second"):
        (target,) = (target for target in result["targets"] if target["key"] == key)
        assert target["reached"] is None and target["sentence"] in page


def test_rows_ratios_and_targets_follow_from_the_readings(run) -> None:
    """Recomputed from the file alone."""
    result, page = run
    rows = {row["key"]: row for row in result["rows"]}
    rate = {}
    for key, row in rows.items():
        assert len(row["rounds"]) == 2
        rates = [reading["images"] / reading["wall_seconds"] for reading in row["rounds"]]
        rate[key] = statistics.median(rates)
        assert row["images_per_second"]["median"] == rate[key]
        assert f" {rate[key]:,.1f} " in page
    ratios, ours = result["ratios"], rate["training_4/jax_1x1"]
    assert ratios["training_4/jax_1x2_to_1x1"] == rate["training_4/jax_1x2"] / ours
    assert ratios["training_4/to_plain"] == ours / rate["training_4/jax_plain"]
    matmul = [key for key in rows if key.startswith("training_4") and key.endswith("matmul")]
    limit = max(2 * 2048**3 * rate[key] for key in matmul)
    work = contenders.flops(fixtures.small_network(), "training")
    assert ratios["training_4/to_limit"] == pytest.approx(ours * work / limit)
    if TORCH:
        torch = max(rate[key] for key in rate if key.startswith("training_4/torch_eager"))
        assert ratios["training_4/to_torch"] == ours / torch
    for target in result["targets"]:
        if target["score"] is None:
            continue
        assert target["reached"] == (target["score"] >= 1)
        assert target["sentence"].startswith("reached: " if target["reached"] else "missed by ")
        if target["key"].endswith("to_torch"):
            assert target["score"] == pytest.approx(ratios[target["key"]] / 1.2)


def test_operators_one_by_one(tmp_path: pathlib.Path) -> None:
    """Forward and backward, this package's and the plain ones, which agree."""
    result, _ = benchmark(
        tmp_path, "--operators", "--only=*/conv2_b*,*/conv1_LRN_*,*/conv5_pooling_b*,*/up*"
    )
    rows = {row["key"].partition("/")[2]: row for row in result["rows"]}
    for name in ("conv2_backward", "conv1_LRN_forward", "conv5_pooling_backward", "update_step"):
        fast, plain = rows[f"{name}_fast"], rows[f"{name}_plain"]
        assert plain["difference"] < 1e-4 and fast["difference"] is None
        least = max(fast["flops"], fast["bytes"])
        assert least > 0 and fast["share_of_limit"] > 0
        expected = fast["images_per_second"]["median"] / plain["images_per_second"]["median"]
        assert result["ratios"][f"operators_4/{name}_to_plain"] == expected
    conv2 = next(c for c in contenders.convolutions(fixtures.small_network()) if c.name == "conv2")
    assert rows["conv2_backward_fast"]["flops"] == 2 * contenders.conv_flops(conv2)


def test_work_of_the_full_network() -> None:
    """4.14 GFLOP an image in training. The shapes hold all 60,965,224 parameters."""
    network = contenders.Network()
    assert contenders.flops(network, "training") == pytest.approx(4.136e9, rel=1e-3)
    assert contenders.flops(network, "inference") == pytest.approx(1.449e9, rel=1e-3)
    params = contenders.parameters(network)
    assert sum(a.size for layer in params.values() for a in layer.values()) == 60_965_224


@pytest.mark.skipif(not TORCH, reason="no torch to compare with")
def test_another_network_does_not_agree() -> None:
    """The comparison sees an LRN across the towers, and dropout that is rescaled."""
    from experiments.step import ways_torch

    network = fixtures.small_network()
    params = contenders.parameters(network)
    images = ways_torch._to_nchw(contenders.pixels(network, 2))
    logits = {}
    for name, other in {
        "same": network,
        "one LRN": dataclasses.replace(network, lrn_alpha=2.2e-5),
        "dropout": dataclasses.replace(network, dropout=0.45),
    }.items():
        model = ways_torch.AlexNet(other, params, "band")
        logits[name] = {"logits": model(images, {}).detach().numpy()}
    assert contenders.difference(logits["same"], logits["same"]) == 0
    assert contenders.difference(logits["one LRN"], logits["same"]) > 1e-3
    assert contenders.difference(logits["dropout"], logits["same"]) > 1e-3
    broken = {"logits": logits["same"]["logits"] * np.nan}
    assert contenders.difference(broken, logits["same"]) == float("inf")
