"""What became of the faults: counts, the share that survives, and a page with the survivors."""

from collections import Counter
from typing import Any

from alexnet_jax.evaluation.scores import interval
from experiments.faults.trials import NOT_EXECUTED, SURVIVED

Row = dict[str, Any]  # a fault and what became of it


def summary(rows: list[Row]) -> Row:
    """The counts, the share that survives with its 95% interval, and the survivors."""
    survivors = [row for row in rows if row["outcome"] in (SURVIVED, NOT_EXECUTED)]
    tried, surviving = (Counter(row["file"] for row in some) for some in (rows, survivors))
    share = len(survivors) / len(rows)
    return {
        "tried": len(rows),
        "outcomes": Counter(row["outcome"] for row in rows),
        "surviving_share": share,
        "interval": interval(share, len(rows)),
        "mean_seconds": sum(row["seconds"] for row in rows) / len(rows),
        "files": {file: {"tried": tried[file], "surviving": surviving[file]} for file in tried},
        "survivors": survivors,
    }


def page(result: Row) -> str:
    """The summary in Markdown."""
    low, high = result["interval"]
    which = "all" if result["tried"] == result["faults"] else f"drawn by seed {result['seed']}"
    lines = [
        "# Faults that the tests do not see",
        "",
        f"`{result['command']}`",
        "",
        f"{result['tried']} of {result['faults']} faults, {which}: "
        + ", ".join(f"{count} {word}" for word, count in sorted(result["outcomes"].items()))
        + f". {result['surviving_share']:.1%} survive (95% interval {low:.1%} to {high:.1%}).",
        "",
        "| file | tried | survive |",
        "|---|---:|---:|",
        *(f"| {f} | {n['tried']} | {n['surviving']} |" for f, n in result["files"].items()),
    ]
    if result["tests_left_out"]:
        lines += ["", "Left out, because they fail without any fault:", ""]
        lines += [f"- `{test}`" for test in result["tests_left_out"]]
    unseen: dict[str, list[int]] = {}
    for row in result["survivors"]:
        if row["outcome"] == NOT_EXECUTED:
            unseen.setdefault(row["file"], []).append(row["line"])
        else:
            lines += ["", f"`{row['file']}:{row['line']}` {row['kind']}:", "", "```diff"]
            lines += [row["diff"], "```"]
    if unseen:
        lines += ["", "No test executes these lines:", ""]
    for file, numbers in unseen.items():
        lines += [f"- `{file}`: {', '.join(map(str, sorted({*numbers})))}"]
    return "\n".join(lines) + "\n"
