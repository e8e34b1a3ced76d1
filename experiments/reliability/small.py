"""The smallest run that has every part: its data, its commands, and how two ends are compared.

A training takes 24 steps of 8 images, validates and saves every 4, and tests: all in a second or
two beside the imports, so that a hundred of them can be broken.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorstore

from experiments.reliability.case import PATIENCE, Ended, run
from experiments.reliability.processes import Processes

CLASSES = ("ant", "bee", "cat", "dog")
IMAGES = {"train": 16, "val": 6, "test": 6}  # of each class
MANY = 500  # of each class, for `prepare`
CONFIG = '''
"""The smallest network that has every layer."""

from alexnet_jax.configs import base


def get_config(preset="reconciled"):
    config = base.get_config(preset)
    config.batch_size, config.epochs = 8, 3.0
    config.data.source, config.data.size = "folder:{root}/images", 24
    config.data.dir = "{root}/data"
    config.data.test, config.data.lighting_until = "test", 1.0  # no share of the run's length
    config.eval_every = config.checkpoint_every = 0.5
    config.model.classes, config.model.input_size = 4, 20
    config.model.conv1.kernel, config.model.conv1.stride = 5, 1
    config.model.conv1.padding = (2, 2)
    for i, width in enumerate((4, 8, 8, 8, 8), 1):
        config.model[f"conv{{i}}"].width = width
        config.model[f"conv{{i}}"].std = 0.1
    config.model.fc6.width = config.model.fc7.width = 16
    config.model.fc6.std = config.model.fc7.std = config.model.fc8_std = 0.3
    config.optim.schedule, config.optim.patience = "plateau", 1
    config.log_every, config.eval_batch_size = 2, 16
    return config
'''
TIMES = ("images_per_second", "data_wait_fraction", "seconds_left")


class Small:
    """A folder with the data, and with runs and preparations that nothing has disturbed."""

    def __init__(self, root: Path) -> None:
        """Draws the images and makes the unbroken runs, where they are not there yet."""
        self.root, self.compiled = root, root / "compiled"
        self.config = root / "small.py"
        self.unbroken, self.prepared = root / "unbroken", root / "prepared"
        self.halfway = root / "halfway"
        if not self.config.exists():
            draw(root / "images", IMAGES)
            draw(root / "many", {"train": MANY, "test": 2})
            self.config.write_text(CONFIG.format(root=root))
        self._once(self.unbroken, lambda out: self.train(out))
        self._once(self.halfway, lambda out: self.train(out, "--config.epochs=2"))
        self._once(self.prepared, lambda out: self.prepare(out))

    def _once(self, folder: Path, make: Callable[[Path], Ended]) -> None:
        if not folder.exists():
            partial = folder.with_name("unfinished")
            shutil.rmtree(partial, ignore_errors=True)
            ended = make(partial)
            if ended.code:
                raise RuntimeError(f"nothing was broken, and yet it failed: {ended.err}")
            partial.rename(folder)

    def of_several(self, processes: int) -> Path:
        """The run as so many processes end it that nothing disturbs.

        Two, of a tower each, end bit for bit as one that has both. Four sum over the devices in
        another order than one with four.
        """
        if processes == 2:
            return self.unbroken
        folder = self.root / f"unbroken{processes}"

        def train(out: Path) -> Ended:
            words = self.root / "words"
            together = Processes(words, processes, *self.training(out), compiled=self.compiled)
            return max(together.ended(PATIENCE), key=lambda ended: abs(ended.code))

        self._once(folder, train)
        return folder

    def training(self, workdir: Path, *flags: str) -> tuple[str, ...]:
        """The words that train a run, or resume it."""
        return ("alexnet_jax.main", f"--workdir={workdir}", f"--config={self.config}", *flags)

    def train(self, workdir: Path, *flags: str, **options: Any) -> Ended:
        """Trains, or resumes."""
        return run(*self.training(workdir, *flags), compiled=self.compiled, **options)

    def preparing(self, out: Path) -> tuple[str, ...]:
        """The words that prepare a dataset, or go on with it."""
        source = f"--source=folder:{self.root / 'many'}"
        return ("alexnet_jax.prepare", source, "--size=32", f"--out={out}")

    def prepare(self, out: Path, **options: Any) -> Ended:
        """Prepares, or goes on."""
        return run(*self.preparing(out), **options)


def draw(root: Path, counts: dict[str, int]) -> None:
    """Writes root/<split>/<class>/<number>.png, 40x30 pixels."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for shade, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = rng.integers(40 * shade, 40 * shade + 100, (30, 40, 3), dtype=np.uint8)
                cv2.imwrite(str(root / split / name / f"{number}.png"), image)


# --- two ends -------------------------------------------------------------------------------------


def differs(workdir: Path, other: Path, *, rows: bool = True) -> str | None:
    """What is different at the ends of two runs, byte for byte; None if nothing is.

    Args:
        workdir: of a run.
        other: of the run that nothing disturbed.
        rows: compare `metrics.jsonl` as well, all but the times.
    """
    last, expected = steps(workdir)[-1:], steps(other)[-1:]
    if last != expected:
        return f"the last checkpoint is {last}, not {expected}"
    checkpoint, sound = (folder / "checkpoints" / f"{last[0]}" for folder in (workdir, other))
    ours, theirs = arrays(checkpoint), arrays(sound)
    if ours.keys() != theirs.keys():
        return f"other arrays: {sorted(ours.keys() ^ theirs.keys())}"
    for name, array in ours.items():
        if array.tobytes() != theirs[name].tobytes():
            return f"{name} is another"
    if rows and metrics(workdir) != metrics(other):
        return "metrics.jsonl has other rows"
    return None


def steps(workdir: Path) -> list[int]:
    """The checkpoints that are complete."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, read by tensorstore alone."""
    found = {}
    for part in ("model", "training"):
        base = {"driver": "ocdbt", "base": f"file://{checkpoint / part}/"}
        for key in tensorstore.KvStore.open(base).result().list().result():
            name, is_array, _ = key.decode().partition("/zarr.json")
            if is_array:
                spec = {"driver": "zarr3", "kvstore": {**base, "path": f"{name}/"}}
                found[f"{part}/{name}"] = tensorstore.open(spec).result().read().result()
    return found


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """All rows, without the times and without the test of a shorter run that was gone on with."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["split"] != "test" or row["step"] == rows[-1]["step"]]
    return [{name: row[name] for name in row if name not in TIMES} for row in kept]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that can be read, but for locks, by its path from the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name
    }
