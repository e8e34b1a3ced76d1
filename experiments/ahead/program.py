"""Compiles one program for devices that are not there, and prints what its compiler says.

    python -m experiments.ahead.program TARGET MODE DATAxTOWER BATCH DTYPE CONFIG [FIELD=VALUE ...]

A process of its own, since a compiler that fails may end it, and since JAX is told before it starts
that there is no device. Its last line is JSON.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from alexnet_jax.evaluation import views
from alexnet_jax.model import AlexNet, make_mesh
from alexnet_jax.model.mesh import IMAGES, shardings
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.settings import load, network, override
from alexnet_jax.training.step import make_train_step, state_shapes
from alexnet_jax.training.update_rule import update_rule
from experiments.ahead.targets import TARGETS, Target
from experiments.shared.compiled import Collective, Kernel, Program, largest, product_operations

STEPS = 900_000  # of a run, which decide the rates and nothing else
LARGEST = 12  # kernels that are listed
PARTS = {  # of a step, by the last of these words in what JAX calls an operation
    "norm": "LRN",
    "within_map_norm": "LRN",
    "pool": "pooling",
    "images": "images",
    "update": "update",
}
LAYERS = {"conv": "convolutions", "fc": "fully connected"}


def main(argv: Sequence[str]) -> None:
    """Compiles and prints."""
    name, mode, mesh, batch, dtype, config, *fields = argv
    target = TARGETS[name]
    data, tower = map(int, mesh.split("x"))
    lowered = _lowered(target, mode, (data, tower), int(batch), dtype, config, fields)
    alone = _lowered(target, mode, (1, 1), int(batch), dtype, config, fields)
    operations = product_operations(alone.as_text(dialect="hlo"))
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    if folder := os.environ.get("AHEAD_TEXTS"):  # to be read
        place = f"{name}-{mode}-{mesh}-{batch}-{dtype}.txt"
        with open(os.path.join(folder, place), "w") as file:
            file.write(text)
    said = summary(Program(text), (data, tower), target.platform == "tpu")
    memory = compiled.memory_analysis()
    said |= {
        "compile_seconds": seconds,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "operations": operations,
    }
    if target.platform == "tpu":
        said["moved"] = (compiled.cost_analysis() or {}).get("bytes accessed", 0.0)
    print(json.dumps(said))


def _lowered(
    target: Target,
    mode: str,
    mesh_shape: tuple[int, int],
    batch_size: int,
    dtype: str,
    config_name: str,
    fields: Sequence[str],
) -> Any:
    config = override(load(config_name), [f"dtype={dtype}", *fields])
    count = mesh_shape[0] * mesh_shape[1]
    mesh = make_mesh(*mesh_shape, devices=target.devices(count))
    model = AlexNet(network(config), mesh, jnp.dtype(dtype))
    crop, size = model.network.input_size, max(config.data.size, model.network.input_size)
    places = NamedSharding(mesh, IMAGES)
    mean = np.zeros((size, size, 3), np.float32)

    def shape(*axes: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *axes), dtype, sharding=places)

    if mode == "training":
        optimizer = update_rule(config.optim, STEPS)
        step: Any = make_train_step(model, optimizer, mean, config, STEPS)
        batch = {"image": shape(crop, crop, 3, dtype=jnp.uint8), "label": shape(dtype=jnp.int32)}
        return step.lower(state_shapes(model, optimizer), batch)

    def probabilities(variables: Any, images: jax.Array) -> jax.Array:
        centre = views.ten_views(size, crop)[0]
        return jax.nn.softmax(
            model.apply(variables, views.cut(images, jnp.asarray(mean), centre, crop))
        )

    variables = model.shapes()
    variables = jax.tree.map(
        lambda array, place: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
        variables,
        shardings(variables, mesh),
    )
    options = platform_of(mesh).compiler_options()
    look: Any = jax.jit(probabilities, compiler_options=options)
    return look.lower(variables, shape(size, size, 3, dtype=jnp.uint8))


def summary(program: Program, mesh: tuple[int, int], tpu: bool) -> dict[str, Any]:
    """What a program's text says of one device, for JSON."""
    kernels = program.kernels()
    shares: Counter[str] = Counter()
    for kernel in kernels:
        shares[part_of(kernel)] += kernel.instruction.cycles if tpu else kernel.moved
    unknown = [k for k in kernels if tpu and not k.instruction.cycles and k.moved > 1_000_000]
    unknown = [k for k in unknown if not k.instruction.kind.startswith(("copy", "async", "slice"))]
    return {
        "kernels": len(kernels),
        "moved": float(sum(kernel.moved for kernel in kernels)),
        "cycles": sum(kernel.instruction.cycles for kernel in kernels),
        "without_estimate": [_described(kernel) for kernel in unknown],
        "shares": dict(shares.most_common()),
        "largest": [_described(kernel) for kernel in largest(kernels, LARGEST)],
        "collectives": [_exchange(found, mesh) for found in program.collectives()],
    }


def _described(kernel: Kernel) -> dict[str, Any]:
    results = [f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in kernel.instruction.results]
    return {
        "kind": kernel.instruction.kind,
        "name": kernel.instruction.name,
        "op": kernel.instruction.op_name,
        "part": part_of(kernel),
        "source": kernel.source,
        "moved": kernel.moved,
        "cycles": kernel.instruction.cycles,
        "results": results,
    }


def part_of(kernel: Kernel) -> str:
    """The part of the step that a kernel is of, by its root: XLA fuses over borders."""
    if kernel.instruction.kind.startswith(("all-", "reduce-scatter", "collective")):
        return "exchange"
    words = kernel.instruction.op_name.replace("(", "/").replace(")", "/").split("/")
    for word in reversed(words):
        if word in PARTS:
            return PARTS[word]
        for layer, part in LAYERS.items():
            if word.startswith(layer) and word[len(layer) :].isdecimal():
                return part
    return "the rest"


def _exchange(found: Collective, mesh: tuple[int, int]) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "axis": axis_of(found.groups, mesh),
        "arrays": [f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in found.arrays],
        "bytes": found.size,
        "op": found.op_name,
    }


def axis_of(groups: Sequence[Sequence[int]], mesh: tuple[int, int]) -> str:
    """Over which axis of a (data, tower) mesh devices talk that are in these groups."""
    grid = np.arange(mesh[0] * mesh[1]).reshape(mesh)
    together = {tuple(sorted(group)) for group in groups}
    if together == {tuple(row) for row in grid.tolist()}:
        return "tower"
    if together == {tuple(column) for column in grid.T.tolist()}:
        return "data"
    return "all"


if __name__ == "__main__":
    main(sys.argv[1:])
