"""The page about programs that were compiled and not run."""

from collections.abc import Iterator
from typing import Any

from experiments.ahead.targets import TARGETS
from experiments.shared.machine import made_by
from experiments.shared.tables import in_groups, listed, table

PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda13-plugin")
HOW = (
    "Compiled, not timed: nothing here has run on a device",
    "`GB moved`: on a GPU the operands and results of every kernel, each once, and of what it only "
    "slices the slices (XLA has no cost analysis there); of a TPU what its compiler says",
    "`bound`: what the memory needs for the bytes or the matrix units for the products, at the "
    "published rates and whichever is more; `at most` follows, over all devices",
    "`Mcycles`: the TPU compiler's estimates, added up; instructions without one are listed",
    "`GFLOP`: of the products and convolutions as they are written, over all devices",
    "`sent`: operands of all collectives on one device; below, each of them",
    "A GPU's libraries (cuDNN, cuBLAS) choose their algorithms on the device and may need more "
    "memory there; no autotuning has happened",
)


def page(result: dict[str, Any]) -> str:
    """The Markdown page of what stands in the JSON file."""
    rows = result["programs"]
    parts = [
        f"# The network of `{result['config']}`, compiled for devices that were not there",
        made_by(result, PACKAGES),
        programs(rows),
        "## Where the bytes go, or on a TPU the cycles",
        shares(rows),
        "## What the devices send each other",
        exchanges(rows),
        "## The largest kernels in training",
        kernels(rows),
    ]
    if unknown := listed(without_estimate(rows)):
        parts += ["## Instructions of which the compiler estimates nothing", unknown]
    return "\n\n".join([*parts, listed(HOW)]) + "\n"


def bound(row: dict[str, Any]) -> float:
    """Seconds that a program takes at least, by the card's published rates."""
    target = TARGETS[row["target"]]
    devices = count_of(row)
    products = row["operations"] / devices / target.products[row["dtype"]]
    return max(row["moved"] / target.memory, products)


def count_of(row: dict[str, Any]) -> int:
    """Its devices."""
    data, tower = map(int, row["mesh"].split("x"))
    return data * tower


def programs(rows: list[dict[str, Any]]) -> str:
    """One line for each program."""
    head = (
        "mesh", "batch", "maps", "compiled in s", "kernels", "GB moved", "GB temporary",
        "GB arguments", "GFLOP", "sent MB", "Mcycles", "bound ms", "images/s at most",
    )  # fmt: skip
    lines = []
    for row in rows:
        seconds = bound(row)
        lines.append((f"{TARGETS[row['target']].name}, {row['mode']}", (
            row["mesh"],
            f"{row['batch']:,}",
            row["dtype"],
            f"{row['compile_seconds']:.0f}",
            f"{row['kernels']:,}",
            f"{row['moved'] / 1e9:.2f}",
            f"{row['temporaries'] / 1e9:.2f}",
            f"{row['arguments'] / 1e9:.2f}",
            f"{row['operations'] / 1e9:,.0f}",
            f"{sum(one['bytes'] for one in row['collectives']) / 1e6:,.1f}",
            f"{row['cycles'] / 1e6:.1f}" if row["cycles"] else "",
            f"{seconds * 1e3:.2f}",
            f"{row['batch'] / seconds:,.0f}",
        )))  # fmt: skip
    return table(head, in_groups(lines), names=3)


def shares(rows: list[dict[str, Any]]) -> str:
    """One line for each program: how much of it is which part of the network."""
    parts = dict.fromkeys(part for row in rows for part in row["shares"])
    lines = []
    for row in rows:
        total = sum(row["shares"].values()) or 1
        found = (f"{row['shares'].get(part, 0) / total:.0%}" for part in parts)
        cells = (row["mesh"], f"{row['batch']:,}", row["dtype"], *found)
        lines.append((f"{TARGETS[row['target']].name}, {row['mode']}", cells))
    return table(("mesh", "batch", "maps", *parts), in_groups(lines), names=3)


def exchanges(rows: list[dict[str, Any]]) -> str:
    """Each collective of the largest batch on every mesh."""
    most = max(row["batch"] for row in rows)
    lines = []
    for row in rows:
        group = f"{TARGETS[row['target']].name}, {row['mode']}, {row['mesh']}, {row['dtype']}"
        for one in row["collectives"] if row["batch"] == most else ():
            arrays = one["arrays"]
            what = ", ".join(arrays[:2]) + (f", and {len(arrays) - 2} more" if arrays[2:] else "")
            cells = (one["kind"], one["axis"], what, f"{one['bytes'] / 1e6:,.2f}")
            lines.append((group, cells))
    return table(("", "over", "of a device", "MB"), in_groups(lines), names=3)


def kernels(rows: list[dict[str, Any]]) -> str:
    """The largest of every training program."""
    lines = []
    for row in rows:
        group = f"{TARGETS[row['target']].name}, {row['mesh']}, {row['batch']:,}, {row['dtype']}"
        for one in row["largest"][:6] if row["mode"] == "training" else ():
            cycles = f"{one['cycles'] / 1e6:.2f}" if one["cycles"] else ""
            cells = (one["part"], one["source"], one["results"][0] if one["results"] else "")
            lines.append((group, (*cells, f"{one['moved'] / 1e9:.2f}", cycles)))
    head = ("part", "from", "writes", "GB", "Mcycles")
    return table(head, in_groups(lines), names=3)


def without_estimate(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the sum of a TPU's cycles does not have, a sentence for each program."""
    for row in rows:
        if found := row["without_estimate"]:
            kinds = [f"{one['kind']} of {one['moved'] / 1e6:,.0f} MB" for one in found]
            target = TARGETS[row["target"]]
            least = sum(one["moved"] for one in found) / target.memory
            cycles = f", {least * target.clock / 1e6:.2f} Mcycles" if target.clock else ""
            yield (
                f"{target.name}, {row['mode']}, {row['mesh']}, {row['batch']:,}: "
                f"{', '.join(kinds)}; at least {least * 1e3:.2f} ms{cycles} for their bytes"
            )
