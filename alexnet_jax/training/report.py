"""What a run tells: `metrics.jsonl`, TensorBoard events, a progress bar or plain lines."""

import json
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.scores import Score
from alexnet_jax.files import whole
from alexnet_jax.run.metrics import Row, read_lines, read_rows
from alexnet_jax.training.events import Events


class Report:
    """Writes and shows the progress of one run. A context manager."""

    def __init__(self, workdir: Path, start: int, steps: int) -> None:
        """Args:
        workdir: of the run.
        start: the step it starts or resumes from; rows of later steps, which a killed run wrote
            after its last checkpoint, go to `metrics.dropped.jsonl`.
        steps: of the whole run.
        """
        self._path = workdir / "metrics.jsonl"
        _drop_rows_after(start, self._path)
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.1,
        )
        self._events = Events(workdir / "tensorboard", start, self.say)
        if start < steps:
            self._events.add()

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
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
        """Writes rows of one moment together, see `add_rows`."""
        add_rows(self._path, *rows)
        self._events.add(*rows)

    def training(self, row: Row) -> None:
        """A row of training figures: on the bar, or as a line where there is none."""
        self.rows(row)
        speed = f"{row['images_per_second']:,.0f} images/s"
        wait = f"{row['data_wait_fraction']:.1%}"
        if self._bar.disable:
            minutes, seconds = divmod(round(row["seconds_left"]), 60)
            self.say(
                f"step {row['step']:>6}/{self._bar.total}  epoch {row['epoch']:6.2f}  "
                f"loss {row['loss']:.4f}  top-1 error {row['top1_error']:6.1%}  "
                f"{speed}  waiting for data {wait}  left {minutes}m{seconds:02}s"
            )
        else:
            self._bar.set_postfix_str(
                f"loss {row['loss']:.3f}, error {row['top1_error']:.1%}, {speed}, data wait {wait}"
            )


class Silence:
    """A report of a process that is not the first: it says and writes nothing."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def advance(self) -> None:
        """One step done."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def rows(self, *rows: Row) -> None:
        """Rows of one moment."""

    def training(self, row: Row) -> None:
        """A row of training figures."""


def add_rows(path: Path, *rows: Row) -> None:
    """Adds rows to a `metrics.jsonl`; with none, tries whether one could.

    Raises:
        UserError: there is no space for them, say.
    """
    try:
        with path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise UserError(
            f"could not write to {path}: {error.strerror}. Free some space or fix the "
            "permissions, and give the same command again to resume"
        ) from error


def _drop_rows_after(step: int, path: Path) -> None:
    """Moves the rows of later steps, and what is no row, out of a `metrics.jsonl`; all are kept."""
    kept, dropped = "", ""
    for row, line in read_lines(path):
        if row is not None and row["step"] <= step:
            kept += f"{line}\n"
        else:
            dropped += f"{line}\n"
    if dropped:
        with path.with_suffix(".dropped.jsonl").open("ab") as file:
            file.write(dropped.encode(errors="surrogateescape"))
    content = kept.encode(errors="surrogateescape")
    if path.exists() and path.read_bytes() != content:
        with whole(path, replace=True) as file:
            file.write(content)


def read_test_scores(workdir: Path, step: int) -> list[Score]:
    """The scores that a test at this step has already written."""
    rows = read_rows(workdir / "metrics.jsonl")
    scores = [
        Score(**{name: row[name] for name in Score._fields})
        for row in rows
        if row["split"] == "test" and row["step"] == step and row.keys() >= set(Score._fields)
    ]
    return scores if len(scores) > 1 else []


def conclude(
    workdir: Path, scores: list[Score], best: int | None, *, fine_tuned: bool = False
) -> None:
    """Prints the result and what can be done with it."""
    print()
    for score in scores:
        print(f"test, last step: {score}")
    if best is not None:
        print(f"best checkpoint by validation error: step {best}")
    quoted = shlex.quote(str(workdir))
    beside = (
        f"\n    python -m alexnet_jax.linear --workdir={quoted}    # beside a linear classifier"
        if fine_tuned
        else ""
    )
    print(f"""
In {workdir}: metrics.jsonl, checkpoints/, figures/conv1.png (the kernels of conv1, tower
by tower), figures/curves.png, and for TensorBoard tensorboard/. Next:

    python -m alexnet_jax.main --workdir={quoted} --mode=evaluate    # test it again{beside}
    python -m alexnet_jax.main --mode=describe                         # the network, layer by layer
    python -m alexnet_jax.main --workdir=W --config=fashion_mnist      # real images
""")
