"""Pictures of runs, and what is measured in them: `python -m alexnet_jax.figures --workdir=W`.

Draws the kernels of the first layer, tower by tower (the paper's Figure 3), measures how much of
them is colour, and draws learning curves. `--workdir=W1,W2,W3` draws several runs together.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from alexnet_jax import cli, colour, trained
from alexnet_jax import config as config_lib
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError
from alexnet_jax.model import make_mesh
from alexnet_jax.report import Row, read_rows

FLAGS = flags.FLAGS


def kernels(kernel: np.ndarray, towers: int, workdir: Path) -> Path:
    """Draws the kernels of conv1, tower by tower, into `figures/conv1.png` of a run.

    Args:
        kernel: (K, K, 3, N); the first half of the kernels is the first tower's.
        towers: 1 or 2.
        workdir: of the run.
    """
    return draw_kernels({"conv1": (kernel, towers)}, workdir / "figures" / "conv1.png")


def draw_kernels(runs: Mapping[str, tuple[np.ndarray, int]], path: Path) -> Path:
    """Draws the kernels of conv1 of runs: name to kernels (K, K, 3, N) and number of towers.

    Every kernel is scaled by its own largest weight; grey is zero. The bar below it is its share of
    colour, of its whole width.
    """
    panels = []
    for name, (kernel, towers) in runs.items():
        for tower, part in enumerate(np.split(kernel, towers, axis=-1)):
            panels.append((f"{name}, tower {'AB'[tower]}" if towers > 1 else name, part))
    side, pitch, heading = 0.55, 1.16, 0.34  # inches, sides, inches
    shapes = [_grid(part.shape[-1]) for _, part in panels]
    width = max(columns for _, columns in shapes) * side
    height = sum(rows * pitch * side + heading for rows, _ in shapes) + 0.3
    figure = Figure(figsize=(width, height), dpi=150)
    top = height
    for (title, part), (rows, columns) in zip(panels, shapes, strict=True):
        tall = rows * pitch * side
        top -= heading + tall
        axes = figure.add_axes((0, top / height, columns * side / width, tall / height))
        shares = colour.shares(part)
        for i, share in enumerate(shares):
            _draw_kernel(axes, part[..., i], share, i % columns, i // columns * pitch)
        axes.axis("off")
        axes.set_title(f"{title}: {shares.mean():.0%} colour", fontsize=9, loc="left")
        axes.set(xlim=(0, columns), ylim=(rows * pitch, 0), aspect="auto")
    note = "Each kernel is scaled by its own largest weight. Bar: its share of colour."
    figure.text(0, 0.08 / height, note, fontsize=7, color="0.35")
    return _save(figure, path)


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many kernels: 3 and 16 for the 48 of a tower of 2012."""
    rows = math.ceil(count / 16)
    return rows, math.ceil(count / rows)


def _draw_kernel(axes: Axes, weights: np.ndarray, share: float, left: float, top: float) -> None:
    """One kernel, (K, K, 3), and its share of colour below it; in sides of a kernel."""
    scaled = weights / (2 * max(np.abs(weights).max(), 1e-12)) + 0.5
    wide = 0.93
    axes.imshow(scaled, extent=(left, left + wide, top + wide, top), interpolation="nearest")
    axes.barh(top + 1.02, wide, 0.05, left, color="0.88")
    axes.barh(top + 1.02, wide * share, 0.05, left, color="0.2")


class Kind(NamedTuple):
    """Rows of `metrics.jsonl` that belong together, and how they are drawn."""

    split: str
    views: int
    label: str
    style: dict[str, Any]

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """Those of this kind."""
        return [row for row in rows if (row["split"], row["views"]) == (self.split, self.views)]


KINDS = (
    Kind("train", 1, "training (crops, dropout)", {"lw": 0.8}),
    Kind("validation", 1, "validation, one view", {"lw": 1, "marker": "o", "ms": 3}),
    Kind("test", 1, "test, one view", {"lw": 0, "marker": "s", "ms": 9, "fillstyle": "none"}),
    Kind("test", 10, "test, ten views", {"lw": 0, "marker": "*", "ms": 6}),
)


def curves(workdir: Path) -> Path:
    """Draws loss and top-1 error over the epochs into `figures/curves.png` of a run."""
    rows = read_rows(workdir / "metrics.jsonl")
    return draw_curves({workdir.name: rows}, workdir / "figures" / "curves.png")


def draw_curves(runs: Mapping[str, Sequence[Row]], path: Path) -> Path:
    """Draws loss and top-1 error of runs: name to rows of `metrics.jsonl`.

    One run has a colour for each kind of row, several have a colour each. An axis is logarithmic
    where its numbers span more than a factor of five.
    """
    count = len(runs)
    many = list(colormaps["turbo"](np.linspace(0.05, 0.95, count)))
    colours = many if count > 10 else [f"C{i}" for i in range(count)]
    figure = Figure(figsize=(9, 3.4), dpi=120)
    places = figure.subplots(1, 2)
    fields = (("loss", "loss, nats", 1), ("top1_error", "top-1 error, %", 100))
    for axes, (field, title, scale) in zip(places, fields, strict=True):
        for shade, rows in zip(colours, runs.values(), strict=True):
            for number, kind in enumerate(KINDS):
                own = kind.of(rows)
                style = {"color": f"C{number}" if count == 1 else shade, **kind.style}
                if len(own) == 1:  # a line of one point would not be seen
                    style.setdefault("marker", ".")
                axes.plot([r["epoch"] for r in own], [scale * r[field] for r in own], **style)
        _scale(axes)
        axes.set_title(f"{title}{' (log scale)' * (axes.get_yscale() == 'log')}", fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles = _legend(runs, colours)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return _save(figure, path)


def _scale(axes: Axes) -> None:
    """Logarithmic if need be, with plain numbers; from zero on if not."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    if values.size and 0 < 5 * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)


def _legend(runs: Mapping[str, Sequence[Row]], colours: Sequence[Any]) -> list[Line2D]:
    """What the lines are, with the last error of each test."""
    handles = []
    for number, kind in enumerate(KINDS):
        own = [row for rows in runs.values() for row in kind.of(rows)]
        label, colour = kind.label, "0.2"
        if len(runs) == 1:
            colour = f"C{number}"
            if own and kind.split == "test":
                label += f": {own[-1]['top1_error']:.2%}"
        if own:
            handles.append(Line2D([], [], color=colour, label=label, **kind.style))
    if len(runs) > 1:
        for colour, (name, rows) in zip(colours, runs.items(), strict=True):
            tested = KINDS[-1].of(rows)
            error = f": {tested[-1]['top1_error']:.2%} in ten views" if tested else ""
            handles.append(Line2D([], [], color=colour, lw=4, label=f"{name}{error}"))
    return handles


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, bbox_inches="tight")
    return path


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """Of each path the fewest last parts that no other one ends with."""
    parts = [Path(os.path.abspath(workdir)).parts for workdir in workdirs]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        lengths = range(1, len(own) + 1)
        clear = (n for n in lengths if all(other[-n:] != own[-n:] for other in others))
        names.append(str(Path(*own[-next(clear) :])))
    return names


class Run(NamedTuple):
    """What there is to be drawn of a run."""

    workdir: Path
    rows: list[Row]
    step: int | None  # of the last checkpoint, if there is one
    kernel: np.ndarray | None  # conv1's, (K, K, 3, N)
    towers: int


def read_run(workdir: Path) -> Run:
    """The metrics of a run and the kernels of its last checkpoint.

    Raises:
        UserError: there is no run, or it has neither yet.
    """
    config = config_lib.read(workdir / "config.json")
    run = Run(workdir, read_rows(workdir / "metrics.jsonl"), None, None, config.model.towers)
    if Checkpoints(workdir / "checkpoints", read_only=True).steps():
        variables, record = trained.restore(config, workdir, make_mesh(1, 1))
        return run._replace(
            step=record["step"], kernel=np.asarray(variables["params"]["conv1"]["kernel"])
        )
    if not run.rows:
        raise UserError(
            f"{workdir} has neither a checkpoint nor metrics yet: train it with "
            f"python -m alexnet_jax.main --workdir={workdir}"
        )
    return run


def draw(workdirs: Sequence[Path], out: Path) -> None:
    """Draws what there is of the runs, measures conv1, and says what was written.

    Raises:
        UserError: see `read_run`. Nothing was written then.
    """
    runs = dict(zip(short_names(workdirs), map(read_run, workdirs), strict=True))
    ending = "-runs" if len(runs) > 1 else ""  # a run's own pictures stay
    seen = {name: (r.kernel, r.towers) for name, r in runs.items() if r.kernel is not None}
    logged = {name: run.rows for name, run in runs.items() if run.rows}
    written = []
    if seen:
        found = {name: colour.measure(*own) for name, own in seen.items()}
        print(colour.table(found), end="\n\n")
        titled = {name if ending else "conv1": own for name, own in seen.items()}
        written.append(draw_kernels(titled, out / f"conv1{ending}.png"))
        written.append(out / f"conv1{ending}.json")
        listed = [
            {"run": name, "workdir": str(runs[name].workdir), "step": runs[name].step, **own}
            for name, own in found.items()
        ]
        about = {"measured": colour.MEASURED, "permutations": colour.DRAWS, "seed": colour.SEED}
        written[-1].write_text(json.dumps({**about, "runs": listed}, indent=2) + "\n")
    if logged:
        written.append(draw_curves(logged, out / f"curves{ending}.png"))
    for name, run in runs.items():
        if run.kernel is None:
            print(f"no kernels of {name}: {run.workdir} has no checkpoint; training saves them")
        if not run.rows:
            print(f"no curves of {name}: {run.workdir} has no metrics; training writes them")
    print("wrote " + ", ".join(map(str, written)))


def define_flags() -> None:
    """Defines the flags; not at import, so that others may import this module."""
    flags.DEFINE_list("workdir", None, "Directory of a run, or of several: W1,W2,W3.")
    flags.DEFINE_string(
        "out", None, "Directory of the pictures; figures/ of the (first) run if not given."
    )


def parse_flags(argv: list[str]) -> None:
    """Parses the flags."""
    cli.parse(argv, define_flags)
    workdirs = [os.path.abspath(workdir) for workdir in FLAGS.workdir or []]
    if not workdirs or not all(FLAGS.workdir):
        cli.refuse("--workdir is missing: the directory of a run, or several: W1,W2,W3", 2)
    if FLAGS.out and os.path.isfile(FLAGS.out):
        cli.refuse(f"--out={FLAGS.out} is a file; give a directory, which is made if need be", 2)
    for workdir in workdirs:
        if workdirs.count(workdir) > 1:
            cli.refuse(f"--workdir names {workdir} twice", 2)


def main(_: None) -> None:
    """Draws what the flags ask for."""
    workdirs = [Path(workdir) for workdir in FLAGS.workdir]
    out = Path(FLAGS.out) if FLAGS.out else workdirs[0] / "figures"
    with cli.mendable(out):
        draw(workdirs, out)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
