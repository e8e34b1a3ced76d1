"""The page of the exports' benchmark."""

from typing import Any

from experiments.export.measure import BATCHES, Row
from experiments.shared.machine import made_by
from experiments.shared.tables import table

PACKAGES = ("onnx", "onnxruntime", "jax", "alexnet_jax")
NAMES = {"run": "The run", "full": "The network of 2012, random weights"}


def report(result: dict[str, Any]) -> str:
    """The Markdown page of what stands in the JSON file."""
    parts = [
        "# Exported networks",
        f"{made_by(result, PACKAGES)} onnxruntime on the CPU with {result['machine']['cores']} "
        "threads.",
        "Milliseconds are of one call: by the clock, median and range of the rounds, and of "
        "processor time, waiting threads included. All precisions of a network are timed in turns. "
        "Errors are in one view.",
    ]
    for key, name in NAMES.items():
        rows = [row for row in result["rows"] if row["network"] == key]
        images = f", {rows[0]['examples']:,} test images" if "examples" in rows[0] else ""
        parts += [f"## {name}{images}", precisions(rows)]
    return "\n\n".join(parts) + "\n"


def precisions(rows: list[Row]) -> str:
    """The table of one network: a row for each precision, the first of which is not narrowed."""
    head = ["precision", "MB"]
    for batch in BATCHES:
        head += [f"ms, batch {batch}", "CPU ms"]
    errors = [kind for kind in ("top1_error", "top5_error") if kind in rows[0]]
    for kind in errors:
        head += [f"top-{kind[3]} error", "change"]
    lines = []
    for row in rows:
        cells = [row["precision"], f"{row['megabytes']:.1f}"]
        for batch in BATCHES:
            spread = row[f"wall_milliseconds_{batch}"]
            cells.append("{median:,.2f} ({min:,.2f} - {max:,.2f})".format(**spread))
            cells.append(f"{row[f'cpu_milliseconds_{batch}']['median']:,.2f}")
        for kind in errors:
            cells += [f"{row[kind]:.2%}", f"{100 * (row[kind] - rows[0][kind]):+.2f} points"]
        lines.append(cells)
    return table(head, lines)
