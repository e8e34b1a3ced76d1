"""What a run tells: `metrics.jsonl`, TensorBoard events, a progress bar or plain lines."""

import json
import sys
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl`; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Report:
    """Writes and shows the progress of one run. A context manager."""

    def __init__(self, workdir: Path, start: int, steps: int) -> None:
        """Args:
        workdir: of the run.
        start: the step it starts or goes on from; rows of later steps, which a killed run wrote
            after its last checkpoint, are dropped.
        steps: of the whole run.
        """
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row["step"] <= start]
        partial = path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(path)
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.1,
        )

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._file.close()
        self._events.close()

    def advance(self) -> None:
        """One step done."""
        self._bar.update()

    def say(self, text: str) -> None:
        """A line for the user, above the bar if there is one."""
        self._bar.clear()
        print(text, flush=True)
        self._bar.refresh()

    def rows(self, *rows: Row) -> None:
        """Writes rows of one moment together."""
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()
        for row in rows:
            views = f"_{row['views']}_views" if row.get("views", 1) > 1 else ""
            for name, value in row.items():
                if isinstance(value, float) and name != "epoch":
                    self._events.add_scalar(f"{row['split']}{views}/{name}", value, row["step"])

    def training(self, row: Row) -> None:
        """A row of training figures: on the bar, or as a line where there is none."""
        self.rows(row)
        if self._bar.disable:
            left = row["seconds_left"]
            self.say(
                f"step {row['step']:>6}/{self._bar.total}  epoch {row['epoch']:6.2f}  "
                f"loss {row['loss']:.4f}  top-1 error {row['top1_error']:6.1%}  "
                f"{row['images_per_second']:,.0f} images/s  "
                f"waiting for data {row['data_wait_fraction']:.1%}  left {left // 60:.0f}m{left % 60:02.0f}s"
            )
        else:
            self._bar.set_postfix_str(
                f"loss {row['loss']:.3f}, error {row['top1_error']:.1%}, "
                f"{row['images_per_second']:,.0f} images/s, data wait {row['data_wait_fraction']:.1%}"
            )
