"""Two processes with a tower each: what they are said to send each other is what they send."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import Tiny, quick_to_compile

from experiments.two_machines import exchanges
from experiments.two_machines.report import bytes_of, exchanged, rates, sent_of

ROOT = Path(__file__).parents[2]
LAYERS = [*(f"conv{number}" for number in range(1, 6)), "fc6", "fc7", "fc8"]


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The command on a small network of narrower fc7: the JSON file, the page and the folder."""
    out = tmp_path_factory.mktemp("two_machines")
    command = [sys.executable, "-m", "experiments.two_machines", f"--config={tiny.config}"]
    command += ["--batch=6", "--rounds=2", "--seconds=0.001", "--steps=2", f"--out={out}"]
    command += ["--set=model.fc7.width=12"]
    command += ["--set=model.conv4.width=0", "--set=model.conv5.width=0"]
    environment = os.environ | {
        "XLA_FLAGS": quick_to_compile(),
        "JAX_COMPILATION_CACHE_DIR": os.environ["ALEXNET_JAX_COMPILED"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        "towers.png", "two_machines.json", "two_machines.md"
    }  # fmt: skip
    page = (out / "two_machines.md").read_text()
    assert page in done.stdout
    return json.loads((out / "two_machines.json").read_text()), page, out


def test_what_is_sent_is_what_the_layers_need(run) -> None:
    """Forward a tower's own maps or units, back as much into conv3, and the sums of all inputs."""
    result, _, _ = run
    maps, units = {"conv3": 4 * 4 * 4, "fc6": 4 * 4 * 4}, {"fc7": 8, "fc8": 6}
    forward = {layer: 4 * count for layer, count in (maps | units).items()}
    back = {"conv3": forward["conv3"]} | {name: 2 * forward[name] for name in ("fc6", "fc7", "fc8")}
    assert bytes_of(result) == {name: (forward[name], back[name]) for name in forward}
    small = [e for e in sent_of(result) if not e.layer]
    assert small and all(exchange.operand in ((6,), (6, 1)) for exchange in small)


def test_the_loopback_device_has_carried_as_much(run) -> None:
    """And little more, of headers and heartbeats; the machine's other traffic is small."""
    result, _, _ = run
    said = sum(exchange.sent for exchange in sent_of(result)) / 6
    carried = result["loopback_bytes_per_image"] / 2
    if carried == carried:
        assert carried > said


def test_two_processes_are_one_of_two_devices(run) -> None:
    """Bit for bit; and as one device but for rounding."""
    result, page, _ = run
    apart = {row["key"]: row["difference"] for row in result["rows"]}
    assert apart["apart"] == 0 and apart["one"] < 1e-3
    assert "bit for bit" in page


def test_the_page_follows_from_the_readings(run) -> None:
    result, page, _ = run
    assert rates(result["rows"]) in page and exchanged(result) in page
    for row in result["rows"]:
        found = [reading["images"] / reading["wall_seconds"] for reading in row["rounds"]]
        assert len(found) == 2 and row["images_per_second"]["median"] == sum(found) / 2
    spent = result["profile"]["seconds"]
    assert spent.keys() == {exchange.instruction for exchange in sent_of(result)}
    assert all(0 < each["travel"] <= each["with_waiting"] for each in spent.values())
    assert sum(each["with_waiting"] for each in spent.values()) > 0


PROGRAM = """
%add {
  ROOT %sum = f32[] add(%a, %b)
}
ENTRY %main {
  %own = f32[4,3]{1,0} fusion(%p), metadata={op_name="jvp(AlexNet)/fc6/mul"}
  %all = f32[4,6]{1,0} all-gather(%own), groups={{0,1}}, metadata={op_name="jvp(AlexNet)/fc6/mul"}
  %copy = f32[4,6]{0,1} copy(%all)
  %dot = f32[4,2]{1,0} dot(%copy, %w), metadata={op_name="jvp(AlexNet)/fc7/dot_general"}
  %maps = bf16[4,2,2,6] all-gather-start(%m), metadata={op_name="shard_map/conv3/all_gather"}
  %m = bf16[4,2,2,3] fusion(%p)
  %back = f32[4,6]{1,0} dot(%dot, %w), metadata={op_name="transpose(jvp(AlexNet))/fc7/dot"}
  %loss = f32[4]{0} reduce(%dot, %zero), metadata={op_name="jit(step)/reduce_sum"}
  %both = (f32[4,6]{1,0}, f32[4]{0}) all-reduce(%back, %loss), metadata={op_name="/fc7/dot:sum"}
  %alone = f32[4]{0} all-reduce(%loss), replica_groups={{0},{1}}, to_apply=%add
  %half = f32[4,3]{1,0} reduce-scatter(%back), metadata={op_name="transpose(jvp(conv3))/add"}
}
"""


def test_a_program_is_read() -> None:
    """A gather belongs to its user, a sum to its maker, each of several at once; bytes by type."""
    found = exchanges.exchanges(PROGRAM, LAYERS)
    assert [(e.layer, e.back, e.kind, e.operand, e.result, e.sent) for e in found] == [
        ("fc7", False, "all-gather", (4, 3), (4, 6), 48),
        ("conv3", False, "all-gather", (4, 2, 2, 3), (4, 2, 2, 6), 96),
        ("fc7", True, "all-reduce", (4, 6), (4, 6), 96),
        ("", True, "all-reduce", (4,), (4,), 16),
        ("conv3", True, "reduce-scatter", (4, 6), (4, 3), 48),
    ]
    with pytest.raises(ValueError, match="not by all-to-all"):
        exchanges.exchanges("  %x = f32[4]{0} all-to-all(%y)", LAYERS)


def test_the_published_picture_and_page_are_of_one_result() -> None:
    """The 2012 network's: the bytes of its widths, float32."""
    folder = ROOT / "experiments" / "results" / "two_machines"
    result = json.loads((folder / "two_machines.json").read_text())
    page = (folder / "two_machines.md").read_text()
    assert rates(result["rows"]) in page and exchanged(result) in page
    assert bytes_of(result) == {
        "conv3": (4 * 13 * 13 * 128, 4 * 13 * 13 * 128),
        "fc6": (4 * 6 * 6 * 128, 4 * 6 * 6 * 256),
        "fc7": (4 * 2048, 4 * 4096),
        "fc8": (4 * 2048, 4 * 4096),
    }
    assert (folder / "towers.png").read_bytes().startswith(b"\x89PNG")
