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
    """The rows of a `metrics.jsonl`; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append(row)
    if rows and (rows[-1]["split"], rows[-1]["views"]) == ("test", 1):
        rows.pop()  # the test in ten views, written with it, is what was cut short
    return rows
