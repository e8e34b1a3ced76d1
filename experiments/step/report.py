"""The page of the step's benchmark: its table, its ratios, and how it was measured."""

from collections.abc import Callable, Iterator
from typing import Any

from experiments.shared.machine import made_by
from experiments.shared.tables import in_groups, listed, table
from experiments.step.ratios import Row, limits

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "onnx", "onnxruntime")
# What a ratio of this network on one device says; those of operators have their own.
MEANINGS = {
    "to_limit": "{:.0%} of the rate of the matrix product",
    "to_plain": "{:.2f} times the plain operators",
    "to_torch": "{:.2f} times the fastest PyTorch",
    "to_onnxruntime": "{:.2f} times the fastest onnxruntime",
    "memory_to_plain": "{:.2f} times the memory of the plain operators",
    "memory_to_torch": "{:.2f} times the memory of the fastest PyTorch",
    "jax_1x2_to_1x1": "a mesh of 1x2 has {:.2f} times its rate",
    "jax_2x1_to_1x1": "a mesh of 2x1 has {:.2f} times its rate",
    "jax_2x2_to_1x1": "a mesh of 2x2 has {:.2f} times its rate",
    "jax_stream_to_1x1": "from a prepared cache, input and all, {:.2f} times its rate",
}
HOW = (
    "Median, least and most of {rounds} rounds. In each all rows of a heading take turns, for "
    "{seconds:g} s or more, synchronised at both ends, and after a warm-up. No two run at the same "
    "time",
    "All that stands under a heading has first given the same outcome: logits, or the change of "
    "every parameter in a step and three losses, with the same dropout masks",
    "The limit is the best rate of a large matrix product or, for operators, of a large copy, "
    "measured in turns with the rows",
    "Training counts three times the products of a forward pass, less the gradient by the image",
    "Cores: processor time over the clock's. Fewer than threads: it waited, for itself or for "
    "others on this machine",
    "Memory: the most that the device held; on a CPU what XLA's compiler planned, and nothing for "
    "the others",
)


def report(result: dict[str, Any]) -> str:
    """The Markdown page of what stands in the JSON file."""
    settings = result["settings"]
    what = "The operators" if settings["operators"] else "A step"
    parts = [
        f"# {what} of the network of `{settings['config']}` in {settings['dtype']}",
        f"{made_by(result, PACKAGES)} {'; '.join(result['frameworks'].values())}.",
        rates(result["rows"]),
        listed(comparisons(result)),
        listed(line.format(**settings | {"rounds": _rounds(result["rows"])}) for line in HOW),
        listed(f"not run: {r['group']}: {r['name']}: {r['reason']}" for r in result["not_run"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rounds(rows: list[dict[str, Any]]) -> str:
    """How many there were: with --minutes perhaps fewer in one table than in another."""
    counts = sorted({len(row["rounds"]) for row in rows})
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def comparisons(result: dict[str, Any]) -> Iterator[str]:
    """The limits of every session, and what the ratios mean."""
    for session in dict.fromkeys(_session(row) for row in result["rows"]):
        rows = [row for row in result["rows"] if _session(row) == session]
        flops, bandwidth = limits(rows)
        yield (
            f"{_words(session)}: the matrix product runs at {flops / 1e9:,.0f} GFLOP/s, the copy "
            f"at {bandwidth / 1e9:,.1f} GB/s"
        )
    for key, ratio in result["ratios"].items():
        session, _, name = key.partition("/")
        if name in MEANINGS:
            yield f"{_words(session)}, this network on one device: {MEANINGS[name].format(ratio)}"
        else:
            operator = name.removesuffix("_to_plain").replace("_", " ")
            yield f"{_words(session)}, {operator}: {ratio:.2f} times the plain operator"
    if result["startup"]:
        yield (
            "From the command to the first step {cold:.1f} s with an empty compilation cache, "
            "{warm:.1f} s with a filled one".format(**result["startup"])
        )


def rates(rows: list[Row]) -> str:
    """The table: rows under the headings of their groups."""
    head = (
        "", "per second", "from - to", "ms a step", "of the limit", "cores", "compiled in s",
        "memory MB",
    )  # fmt: skip
    lines = [(_heading(row), _cells(row)) for row in sorted(rows, key=_place(rows))]
    return table(head, in_groups(lines))


def _cells(row: Row) -> list[str]:
    rate, cpu_rate = row["images_per_second"], row["images_per_cpu_second"]
    compiled, memory = row["compile_seconds"], row["peak_memory"]
    return [
        row["name"],
        f"{rate['median']:,.1f}",
        f"{rate['min']:,.1f} - {rate['max']:,.1f}",
        f"{1000 * row['batch'] / rate['median']:,.2f}",
        f"{row['share_of_limit']:.0%}",
        f"{rate['median'] / cpu_rate['median']:.1f}",
        "" if compiled is None else f"{compiled:.1f}",
        "" if memory is None else f"{memory[0] / 1e6:,.0f}",
    ]


def _heading(row: Row) -> str:
    """The group and, of a network, its work."""
    if row["group"] == "limits" or _session(row).startswith("operators"):
        return row["group"]
    return f"{row['group']}, {row['flops'] / 1e9:,.2f} GFLOP an image"


def _place(rows: list[Row]) -> Callable[[Row], tuple[int, int]]:
    """The order: session by session, one group after the other, and the limits last."""
    sessions = list(dict.fromkeys(_session(row) for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows if row["group"] != "limits"))
    groups.append("limits")
    return lambda row: (sessions.index(_session(row)), groups.index(row["group"]))


def _session(row: Row) -> str:
    """The key of the task that a row is of, such as training_128."""
    return row["key"].partition("/")[0]


def _words(session: str) -> str:
    kind, _, batch = session.partition("_")
    return f"{kind} at batch {batch}"
