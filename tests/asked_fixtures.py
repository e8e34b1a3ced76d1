"""A small network with random weights that the commands ask, and the commands as processes."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import data_fixtures
import jax
import network_fixtures as fixtures
import numpy as np
import trained_fixtures
from PIL import Image
from run_fixtures import quick_to_compile

from alexnet_jax import settings
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model import make_mesh
from alexnet_jax.run import inputs

SIZE, CROP = 104, 96
CLASSES = tuple("abcdefghijkl")


@functools.cache
def network() -> TrainedNetwork:
    """A small network with random weights, and a mean image with another value at every pixel."""
    config = fixtures.small_config(f"data.size={SIZE}", "data.test=test", "data.validation=")
    params = jax.tree.map(np.float32, fixtures.random_params(fixtures.small_network()))
    mean = np.random.default_rng(1).uniform(100, 140, (SIZE, SIZE, 3)).astype(np.float32)
    variables = {"params": params, "batch_stats": {}}
    return TrainedNetwork("tested", config, make_mesh(1, 1), variables, mean, CLASSES, 7)


def write_run(workdir: Path, *assignments: str) -> Path:
    """The same network as a run's directory: its best checkpoint, by which `--best` answers, and
    not the last, which knows nothing."""
    config = settings.override(network().config, assignments)
    workdir.mkdir()
    settings.save(config, workdir / "config.json")
    inputs.write_input(workdir, np.asarray(network().viewer.mean_image), CLASSES)
    trained_fixtures.save_best_and_last(workdir, network().variables["params"], 7, 9)
    return workdir


@functools.cache
def squares(count: int) -> np.ndarray:
    """Smooth pictures of the size that views are cut from."""
    return np.stack([data_fixtures.photo(i, SIZE, SIZE) for i in range(count)])


def program(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m alexnet_jax.NAME`, on one core where that can be asked for, and soon compiled."""
    one_core = ["taskset", "-c", str(core())] if shutil.which("taskset") else []
    command = [*one_core, sys.executable, "-m", f"alexnet_jax.{name}", *map(str, arguments)]
    options = {"env": os.environ | {"XLA_FLAGS": quick_to_compile()}, **options}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def core() -> int:
    """One that this process may use; with pytest-xdist another for each worker."""
    own = sorted(os.sched_getaffinity(0))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return own[int(worker) % len(own)]


def colour_share(path: Path, colour: str) -> int:
    """How many pixels have exactly this colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return int((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def places_of(picture: np.ndarray, side: int, path: Path) -> list[tuple[int, int]]:
    """Where a drawing has a picture, upright and brought to `side` pixels: tops and lefts."""
    with Image.open(path) as image:
        drawn = np.asarray(image.convert("RGB"))
    wanted = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    apart = cv2.matchTemplate(drawn, np.asarray(wanted), cv2.TM_SQDIFF) / (3 * side**2)
    return [(int(top), int(left)) for top, left in np.argwhere(apart < 4)]  # two grey levels
