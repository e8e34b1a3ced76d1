"""The rows of `metrics.jsonl`: what a run has measured, one JSON object a line.

A row has `step`, `epoch`, `split` and `views`, and as floats `loss` (nats), `top1_error` and
`top5_error` (fractions of 1); rows of training also `learning_rate`, `images_per_second`,
`data_wait_fraction` and `seconds_left`.
"""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl`; a line that was cut short or altered is left out."""
    return [row for row, _ in read_lines(path) if row is not None]


def read_lines(path: Path) -> list[tuple[Row | None, str]]:
    """Every line of a `metrics.jsonl` with its row; None for what is none, or only half a test."""
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="surrogateescape").removesuffix("\n")
    lines = [(_row(line), line) for line in text.split("\n")] if text else []
    rows = [number for number, (row, _) in enumerate(lines) if row is not None]
    if rows:
        last, line = lines[rows[-1]]
        if last is not None and (last["split"], last["views"]) == ("test", 1):
            # The test in ten views, written with it, is what was cut short.
            lines[rows[-1]] = None, line
    return lines


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(row, dict) and {"step", "split", "views"} <= row.keys()
    return row if sound and isinstance(row["step"], int) else None
