"""The pictures of one run, or of several together, with what is measured in them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.files import whole
from alexnet_jax.model import make_mesh
from alexnet_jax.pictures import colour
from alexnet_jax.pictures.curves import draw_curves
from alexnet_jax.pictures.figure3 import draw_kernels
from alexnet_jax.pictures.saving import MADE_BY
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.run.metrics import Row, read_rows
from alexnet_jax.run.restore import restore_weights


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """Returns of each path the fewest last parts that no other one ends with."""
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
    config = settings.read(workdir / "config.json")
    run = Run(workdir, read_rows(workdir / "metrics.jsonl"), None, None, config.model.towers)
    if Checkpoints(workdir / "checkpoints", read_only=True).steps():
        variables, record = restore_weights(config, workdir, make_mesh(1, 1))
        return run._replace(
            step=record["step"], kernel=np.asarray(variables["params"]["conv1"]["kernel"])
        )
    if not run.rows:
        raise UserError(
            f"{workdir} has neither a checkpoint nor metrics yet: train it with "
            f"python -m alexnet_jax.main --workdir={workdir}"
        )
    return run


def written_to(workdirs: Sequence[Path], out: Path) -> tuple[Path, Path, Path]:
    """The files that `draw` makes in a folder: kernels, what is measured in them, and curves."""
    ending = "-runs" if len(workdirs) > 1 else ""  # a run's own pictures stay
    names = (f"conv1{ending}.png", f"conv1{ending}.json", f"curves{ending}.png")
    return out / names[0], out / names[1], out / names[2]


def draw(workdirs: Sequence[Path], out: Path) -> None:
    """Draws what there is of the runs, measures conv1, and says what was written.

    Raises:
        UserError: see `read_run`. Nothing was written then.
    """
    runs = dict(zip(short_names(workdirs), map(read_run, workdirs), strict=True))
    seen = {name: (r.kernel, r.towers) for name, r in runs.items() if r.kernel is not None}
    logged = {name: run.rows for name, run in runs.items() if run.rows}
    picture, measures, curves = written_to(workdirs, out)
    written = []
    if seen:
        found = {name: colour.measure(*own) for name, own in seen.items()}
        print(colour.colour_table(found), end="\n\n")
        titled = {name if len(runs) > 1 else "conv1": own for name, own in seen.items()}
        written += [draw_kernels(titled, picture), measures]
        listed = [
            {"run": name, "workdir": str(runs[name].workdir), "step": runs[name].step, **own}
            for name, own in found.items()
        ]
        about = {"measured": colour.MEASURED, "permutations": colour.DRAWS, "seed": colour.SEED}
        text = json.dumps({"made_by": MADE_BY, **about, "runs": listed}, indent=2) + "\n"
        with whole(measures, replace=True) as file:
            file.write(text.encode())
    if logged:
        written.append(draw_curves(logged, curves))
    for name, run in runs.items():
        if run.kernel is None:
            print(f"no kernels of {name}: {run.workdir} has no checkpoint; training saves them")
        if not run.rows:
            print(f"no curves of {name}: {run.workdir} has no metrics; training writes them")
    print("wrote " + ", ".join(map(str, written)))
