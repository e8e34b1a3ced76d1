"""The programs that the accelerators' own compilers make of the network, without an accelerator.

Run by `pytest -m compilers` where `alexnet_jax[ahead]` is installed: what makes a step fast there
is kept here by what it moves, keeps and exchanges.
"""

import functools
import math
import os
import subprocess
import sys
from typing import Any

import pytest

from experiments.ahead.__main__ import ENVIRONMENT, Case, compiled
from experiments.ahead.targets import TARGETS
from experiments.shared.compiled import arrays

pytestmark = [
    pytest.mark.compilers,
    pytest.mark.skipif(
        TARGETS["h100"].missing() or TARGETS["v5e"].missing(),
        reason="pip install 'alexnet_jax[ahead]'",
    ),
]
SMALL = (  # a network whose layers are those of 2012, for a compiler that takes minutes for theirs
    "model.input_size=96", "model.classes=12", "model.conv1.width=16", "model.conv2.width=32",
    "model.conv3.width=32", "model.conv4.width=32", "model.conv5.width=32", "model.fc6.width=64",
    "model.fc7.width=64",
)  # fmt: skip


@functools.cache
def program(
    mesh: str, batch: int, *, target: str = "h100", dtype: str = "bfloat16", fields: Any = ()
) -> dict[str, Any]:
    """A training step for devices that are not here."""
    return compiled(Case(target, "training", mesh, batch, dtype), ["imagenet", *fields])


def test_bytes_of_operators_whose_traffic_is_known() -> None:
    """What we add up for a GPU: what has to be read and written, and no more."""
    code = """
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import SingleDeviceSharding
from experiments.ahead.targets import TARGETS
from experiments.shared.compiled import Program
place = SingleDeviceSharding(TARGETS["h100"].devices(1)[0])
def moved(f, *shapes):
    given = [jax.ShapeDtypeStruct(s, t, sharding=place) for s, t in shapes]
    kernels = Program(jax.jit(f).lower(*given).compile().as_text()).kernels()
    return sum(kernel.read for kernel in kernels), sum(kernel.written for kernel in kernels)
half, full = jnp.bfloat16, jnp.float32
maps, few = ((64, 13, 13, 256), half), ((64, 13, 13, 128), half)
print(moved(lambda x: x * 2 + 1, maps))
print(moved(lambda x, y: (x * y).astype(full), maps, maps))
print(moved(lambda x: x[..., :128] * 2, maps))
print(moved(lambda x: x.sum(1), ((4096, 512), full)))
conv = lambda x, k: lax.conv_general_dilated(
    x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OHWI", "NHWC"))
print(moved(conv, maps, ((64, 3, 3, 256), half)))
print(moved(lambda x, y: x @ y, ((512, 1024), half), ((1024, 2048), half)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [tuple(map(int, line.strip("()").split(","))) for line in done.stdout.splitlines()]
    maps = 64 * 13 * 13 * 256 * 2
    assert found[:4] == [
        (maps, maps),
        (2 * maps, 2 * maps),
        (maps // 2, maps // 2),
        (4096 * 512 * 4, 4096 * 4),
    ]
    kernel, product = 64 * 3 * 3 * 256 * 2, (512 * 1024 * 2, 1024 * 2048 * 2, 512 * 2048 * 2)
    read, written = found[4]
    assert (read, written) == (maps + kernel, maps // 4)
    read, written = found[5]  # it may be cut into parts whose sums are added by another kernel
    assert sum(product[:2]) <= read <= sum(product[:2]) + 8 * product[2]
    assert product[2] <= written <= 9 * product[2]


@pytest.mark.parametrize(
    ("batch", "moved", "temporaries"), [(128, 4.5e9, 0.6e9), (1024, 18.5e9, 2.6e9)]
)
def test_what_a_gpu_moves_and_keeps(batch: int, moved: float, temporaries: float) -> None:
    """The bounds are a little above what was reached (`experiments/results/ahead`)."""
    found = program("1x1", batch)
    assert 0.8 * moved < found["moved"] < moved
    assert 0.5 * temporaries < found["temporaries"] < temporaries
    assert found["collectives"] == []


def test_maps_are_float32_in_registers_only() -> None:
    """No kernel of a bfloat16 step writes conv1's or conv2's maps wide."""
    wide = [
        array
        for kernel in program("1x1", 128)["largest"]
        for text in kernel["results"]
        for array in arrays(text)
        if array.dtype == "f32" and len(array.shape) > 3 and array.shape[0] == 128
    ]
    assert wide == []
    assert program("1x1", 128)["largest"][-1]["moved"] < 128 * 27 * 27 * 256 * 4, "all were seen"


def exchanged(found: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    """What goes over the towers in arrays, and not in sums of single numbers."""
    return [
        (one["axis"], ", ".join(one["arrays"]))
        for one in found["collectives"]
        if one["kind"] == kind and one["bytes"] > 100_000
    ]


@pytest.mark.parametrize("mesh", ["1x2", "2x2"])
def test_towers_exchange_at_four_places_each_way(mesh: str) -> None:
    """Halves of maps and units forward, no masks; back to each its half of the gradient's sum."""
    data = int(mesh[0])
    images, found = 128 // data, program(mesh, 128)
    assert exchanged(found, "all-gather") == [
        ("tower", f"bf16[{images},13,13,128]"),
        ("tower", f"bf16[{images},6,6,128]"),
        ("tower", f"bf16[{images},2048]"),
        ("tower", f"bf16[{images},2048]"),
    ]
    assert exchanged(found, "reduce-scatter") == [
        ("tower", f"bf16[{images},4096]"),
        ("tower", f"bf16[{images},4096]"),
        ("tower", f"bf16[{images},6,6,256]"),
        ("tower", f"bf16[{images},13,13,256]"),
    ]
    sums = exchanged(found, "all-reduce")
    assert all(axis == "data" for axis, _ in sums) and bool(sums) == (data > 1)
    assert not any("bf16" in what for _, what in sums), "gradients are summed in float32"
    if data > 1:
        numbers = sum(math.prod(a.shape) for _, what in sums for a in arrays(what))
        assert numbers > 0.9 * 60_965_224 / 2, "each tower's parameters"


@pytest.mark.parametrize("mesh", ["1x1", "1x2"])
def test_a_tpu_compiles_the_same_step(mesh: str) -> None:
    """Of a small network; three select-and-scatters are poolings' way back, as a TPU has it."""
    found = program(mesh, 16, target="v5e", fields=SMALL)
    assert found["cycles"] > 0
    gathers = [one for one in found["collectives"] if one["kind"] == "all-gather"]
    assert len(gathers) == (4 if mesh == "1x2" else 0)
    assert not any("pred" in text for one in found["collectives"] for text in one["arrays"])
