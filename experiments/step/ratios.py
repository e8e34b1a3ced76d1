"""What the readings of a step amount to: shares of the machine's limits, and ratios of medians."""

from typing import Any

Row = dict[str, Any]

RIVALS = {"plain": "jax_plain", "torch": "torch", "onnxruntime": "onnx"}  # how their names start
MESHES = ("jax_1x2", "jax_2x1", "jax_2x2", "jax_stream")


def rate(row: Row) -> float:
    """The median of the images per second."""
    return float(row["images_per_second"]["median"])


def limits(rows: list[Row]) -> tuple[float, float]:
    """Operations and bytes per second of the rows of one session, the best of the frameworks."""

    def best(what: str, work: str) -> float:
        found = [r for r in rows if r["group"] == "limits" and r["key"].endswith(what)]
        return max(row[work] * rate(row) for row in found)

    return best("matmul", "flops"), best("copy", "bytes")


def with_shares(rows: list[Row]) -> list[Row]:
    """The rows of a session, each with its share of what the machine allows.

    An image takes at least as long as its products take at the rate of a large matrix product, or
    as its bytes take at the rate of a large copy.
    """
    flops, bandwidth = limits(rows)
    for row in rows:
        least = max(row["flops"] / flops, row["bytes"] / bandwidth)
        row["share_of_limit"] = least * rate(row)
    return rows


def ratios(rows: list[Row]) -> dict[str, float]:
    """Ratios of the medians, session by session: of this network on one device to the others, and
    of this package's operators to the plain ones."""
    found: dict[str, float] = {}
    by_key = {row["key"]: row for row in rows}
    for key, row in by_key.items():
        session, _, name = key.partition("/")
        plain = by_key.get(key.replace("_fast", "_plain"))
        if name.endswith("_fast") and plain:
            found[f"{key.removesuffix('_fast')}_to_plain"] = rate(row) / rate(plain)
        if name != "jax_1x1":
            continue
        found[f"{session}/to_limit"] = row["share_of_limit"]
        for rival, beginning in RIVALS.items():
            best = fastest(rows, session, beginning)
            if best:
                found[f"{session}/to_{rival}"] = rate(row) / rate(best)
                if row["peak_memory"] and best["peak_memory"]:
                    ours, theirs = row["peak_memory"][0], best["peak_memory"][0]
                    found[f"{session}/memory_to_{rival}"] = ours / theirs
        for other in MESHES:
            if f"{session}/{other}" in by_key:
                found[f"{session}/{other}_to_1x1"] = rate(by_key[f"{session}/{other}"]) / rate(row)
    return found


def fastest(rows: list[Row], session: str, beginning: str) -> Row | None:
    """The fastest row of a session whose name begins so; None if there is none."""
    prefix = f"{session}/{beginning}"
    found = [r for r in rows if r["key"].startswith(prefix) and r["group"] != "limits"]
    return max(found, key=rate, default=None)
