"""The benchmark of the step: that its rivals compute the same, and that its sums are right."""

import dataclasses
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import network_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.model import Network
from experiments.shared import timing
from experiments.step import given, work
from experiments.step.outcomes import difference

ROOT = Path(__file__).parents[2]
TORCH = importlib.util.find_spec("torch") is not None
ONNX = all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))

LEFT_OUT = ("conv3", "conv4", "conv5", "fc7")  # where any network will do: compiling takes time
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


def benchmark(folder: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """A tiny run, by its command: the JSON file and the page."""
    (folder / "tiny.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n{CONFIG}"
    )
    out, name = folder / "new", "operators" if "--operators" in flags else "benchmark"
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
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.json", f"{name}.md"]
    page = (out / f"{name}.md").read_text()
    assert page in done.stdout
    return json.loads((out / f"{name}.json").read_text()), page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Training and inference; PyTorch's compiler is left out, it takes its time."""
    ways = ("jax_1x?", "jax_plain", "torch_eager_nchw_window", "torch_eager_channels_last_band")
    wanted = [
        f"{task}/{way}" for task in ("training_4", "inference_1") for way in (*ways, "onnx_*")
    ]
    return benchmark(tmp_path_factory.mktemp("step"), f"--only={','.join(wanted)}")


@pytest.mark.slow
def test_all_that_is_timed_has_agreed(run) -> None:
    """This network on its meshes, the plain one, PyTorch's and ONNX's."""
    result, _ = run
    found = {row["key"]: row["difference"] for row in result["rows"] if row["group"] != "limits"}
    expected = [f"training_4/jax_{name}" for name in ("1x1", "1x2", "plain")]
    eager = ["nchw_window", "channels_last_band"]
    expected += [f"training_4/torch_eager_{name}" for name in eager] * TORCH
    expected += [f"inference_1/jax_{name}" for name in ("1x1", "plain")]
    expected += [f"inference_1/torch_eager_{name}" for name in eager] * TORCH
    expected += [f"inference_1/onnx_{lrn}" for lrn in ("window", "band")] * ONNX
    assert list(found) == expected
    for key, apart in found.items():
        assert (apart is None) == key.endswith("jax_1x1")
        assert apart is None or apart < 1e-4, key


@pytest.mark.slow
def test_what_was_not_run_is_listed(run) -> None:
    """With the reason."""
    result, page = run
    reasons = {row["key"]: row["reason"] for row in result["not_run"]}
    if TORCH:
        assert reasons["training_4/torch_compiled_nchw_band"] == "left out by --only"
        assert "PyTorch compiled, nchw, LRN by band: left out by --only." in page
    else:
        assert reasons["training_4/torch"] == "torch is not installed"
    assert reasons["inference_32/jax_1x1"] == "left out by --only"
    assert not any(row["key"].startswith("inference_32") for row in result["rows"])
    assert ONNX or "is not installed" in reasons["inference_1/onnx"]
    assert result["startup"] is None and "first step" not in page


@pytest.mark.slow
def test_rows_and_ratios_follow_from_the_readings(run) -> None:
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
    flops = work.flops(fixtures.small_network(), "training")
    assert ratios["training_4/to_limit"] == pytest.approx(ours * flops / limit)
    if TORCH:
        torch = max(rate[key] for key in rate if key.startswith("training_4/torch_eager"))
        assert ratios["training_4/to_torch"] == ours / torch
    assert f"{ratios['training_4/to_plain']:.2f} times the plain operators" in page
    assert f"a mesh of 1x2 has {ratios['training_4/jax_1x2_to_1x1']:.2f} times its rate" in page


@pytest.mark.slow
def test_in_a_minute_that_is_too_short_the_first_way_is_timed_once(tmp_path: Path) -> None:
    """And what there was no time for is listed."""
    result, page = benchmark(
        tmp_path, "--only=training_*/jax_*,training_*/torch_*", "--minutes=0.01"
    )
    own = [row for row in result["rows"] if row["group"] != "limits"]
    assert [len(row["rounds"]) for row in own] == [1]
    reasons = {row["reason"] for row in result["not_run"]}
    assert "out of time, by --minutes" in reasons and "out of time" in page


def test_after_its_time_no_further_round_begins() -> None:
    """The first one always does."""
    made: list[int] = []

    def work(images: int) -> timing.Reading:
        made.append(images)
        return timing.Reading(images, 1.0, 1.0)

    variant = timing.Variant("a", "", "a", work, 1)
    assert len(list(timing.in_turns([variant], 5, 1.0, until=0.0))) == 1
    assert len(list(timing.in_turns([variant], 5, 1.0))) == 5


@pytest.mark.slow
def test_operators_one_by_one(tmp_path: Path) -> None:
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
    conv2 = next(c for c in work.convolutions(fixtures.small_network()) if c.name == "conv2")
    assert rows["conv2_backward_fast"]["flops"] == 2 * work.conv_flops(conv2)


def test_work_of_the_full_network() -> None:
    """4.14 GFLOP an image in training. The shapes hold all 60,965,224 parameters."""
    network = Network()
    assert work.flops(network, "training") == pytest.approx(4.136e9, rel=1e-3)
    assert work.flops(network, "inference") == pytest.approx(1.449e9, rel=1e-3)
    params = given.parameters(network)
    assert sum(a.size for layer in params.values() for a in layer.values()) == 60_965_224


@pytest.mark.skipif(not TORCH, reason="no torch to compare with")
def test_another_network_does_not_agree() -> None:
    """The comparison sees an LRN across the towers, and dropout that is rescaled."""
    import torch

    from experiments.step.torch_network import AlexNet

    network = fixtures.small_network()
    params = given.parameters(network)
    images = torch.from_numpy(given.pixels(network, 2).transpose(0, 3, 1, 2).copy())
    logits = {}
    for name, other in {
        "same": network,
        "one LRN": dataclasses.replace(network, lrn_alpha=2.2e-5),
        "dropout": dataclasses.replace(network, dropout=0.45),
    }.items():
        model = AlexNet(other, params, "band")
        logits[name] = {"logits": model(images, {}).detach().numpy()}
    assert difference(logits["same"], logits["same"]) == 0
    assert difference(logits["one LRN"], logits["same"]) > 1e-3
    assert difference(logits["dropout"], logits["same"]) > 1e-3
    broken = {"logits": logits["same"]["logits"] * np.nan}
    assert difference(broken, logits["same"]) == float("inf")


@pytest.mark.skipif(not ONNX, reason="no onnxruntime to compare with")
@pytest.mark.parametrize(
    "changes", [{}, {"towers": 1, "lrn_beta": 0.5}, {"lrn_across_towers": True}], ids=str
)
def test_both_onnx_graphs_are_the_network_without_its_surroundings(changes: dict) -> None:
    """They differ in LRN alone, and give the same logits; in another network they do not."""
    import onnxruntime

    from experiments.step import ways_onnx

    network = fixtures.small_network(**changes)
    params, images = given.parameters(network), given.pixels(network, 2)
    logits, operators = {}, {}
    for lrn in ("window", "band"):
        model = ways_onnx.graph(network, params, 2, lrn)
        operators[lrn] = {node.op_type for node in model.graph.node}
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found = session.run(None, {"input": images.transpose(0, 3, 1, 2).copy()})
        logits[lrn] = {"logits": found[0]}
    assert "LRN" in operators["window"] and "LRN" not in operators["band"]
    assert not {"Sub", "Softmax", "Transpose"} & (operators["window"] | operators["band"])
    assert difference(logits["band"], logits["window"]) < 1e-5


def test_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is dispatched, and the word for that is the last one."""
    from experiments.step import first_step

    (tmp_path / "tiny.py").write_text(CONFIG)
    fields = ["mesh.data=1", "mesh.tower=1", *(f"model.{name}.width=0" for name in LEFT_OUT)]
    sets = [f"--set={field}" for field in fields]
    first_step.main([f"--config={tmp_path}/tiny.py", "--batch=2", *sets])
    assert capsys.readouterr().out.endswith("dispatched\n")


def test_the_time_to_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the word of a process with compiled programs in one new folder, which is empty once."""
    from experiments.step import startup

    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/arguments\n'
        '[ -e "$JAX_COMPILATION_CACHE_DIR/kept" ] || sleep 0.5\n'
        'touch "$JAX_COMPILATION_CACHE_DIR/kept"\n'
        "echo $WORD\nsleep 0.1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(startup.sys, "executable", str(program))
    monkeypatch.setenv("WORD", "dispatched")
    found = startup.startup("tiny", 4, ["seed=1"])
    assert found["cold"] == found["seconds"][0] > 0.5 > found["warm"]
    assert found["warm"] == statistics.median(found["seconds"][1:]) and len(found["seconds"]) == 4
    command = "-m experiments.step.first_step --config=tiny --batch=4 --set=seed=1"
    assert (tmp_path / "arguments").read_text().splitlines() == 4 * [command]
    monkeypatch.setenv("WORD", "error")
    with pytest.raises(UserError, match="no first step"):
        startup.startup("tiny", 4, [])
