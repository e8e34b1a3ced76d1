"""The smallest run that has every part, as real processes, and a reader of what it leaves behind.

64 training images of 4 classes in a folder of PNGs, 24 x 24 pixels; 8 images a step. All processes
share one cache of compiled programs, so that only the first one compiles, and that one in a hurry.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_fixtures
import jax
import numpy as np

from experiments.reliability.small import arrays
from experiments.reliability.small import steps as checkpoint_steps

CONFIG = '''
"""The smallest network that has every layer."""

from alexnet_jax.configs import base


def get_config(preset="reconciled"):
    config = base.get_config(preset)
    config.batch_size = 8
    config.epochs = 5.0
    config.data.source = "folder:{root}/images"
    config.data.dir = "{root}/data"
    config.data.size = 24
    config.data.test = "test"
    config.model.classes = 4
    config.model.input_size = 20
    config.model.conv1.kernel, config.model.conv1.stride = 5, 1
    config.model.conv1.padding = (2, 2)
    for i, width in enumerate((4, 8, 8, 8, 8), 1):
        config.model[f"conv{{i}}"].width = width
        config.model[f"conv{{i}}"].std = 0.1
    config.model.fc6.width = config.model.fc7.width = 16
    config.model.fc6.std = config.model.fc7.std = config.model.fc8_std = 0.3
    config.log_every = 4
    config.eval_batch_size = 16
    return config
'''
TIMES = ("images_per_second", "data_wait_fraction", "seconds_left")  # what may differ between runs


@functools.cache
def quick_to_compile() -> str:
    """XLA_FLAGS of a process that compiles more than it computes: a sixth of the time.

    The loops of such programs are not optimized. Those of a user are, and so are those of the
    embedded run and of the campaign `experiments.reliability`, by the slow tests. XLA ends a
    process that gives it an option which it does not know, so that is asked here.
    """
    flags = ["--xla_backend_optimization_level=0"]
    option = "xla_cpu_use_fusion_emitters"
    try:
        jax.jit(lambda: 0, compiler_options={option: False}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return flags[0]
    return " ".join([*flags, f"--{option}=false"])


class Tiny:
    """Starts `python -m alexnet_jax.main` on a small dataset and a small network."""

    def __init__(self, root: Path) -> None:
        """Makes the data and the configuration under `root`, if they are not there yet."""
        self.root, self.config = root, root / "tiny.py"
        if not self.config.exists():
            counts = {"train": 16, "val": 5, "test": 6}
            data_fixtures.write_folder(root / "images", counts, ("a", "b", "c", "d"))
            self.config.write_text(CONFIG.format(root=root))

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """A process that runs the program with the arguments and is not waited for.

        What it says is for `communicate`, unless the options send it elsewhere.
        """
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": quick_to_compile(),
            "JAX_COMPILATION_CACHE_DIR": os.environ["ALEXNET_JAX_COMPILED"],
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        return subprocess.Popen(
            [
                *options.pop("prefix", ()),
                sys.executable,
                "-m",
                "alexnet_jax.main",
                *map(str, arguments),
            ],
            env=environment | options.pop("env", {}),
            text=True,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
        )

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def train(self, workdir: Path, *arguments: object, **options: Any) -> str:
        """Trains to the end, without a word on stderr; what was printed."""
        done = self.run(f"--workdir={workdir}", f"--config={self.config}", *arguments, **options)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", done.stderr
        return done.stdout


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """Waits for the condition; False if the process ended first."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
    return True


def kill(process: subprocess.Popen[str]) -> str:
    """SIGKILL; what the process had printed by then."""
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate()
    assert err == ""
    return out


def rows(workdir: Path) -> list[dict[str, Any]]:
    """All of `metrics.jsonl`, without what the clock says."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def row_count(workdir: Path) -> int:
    """Lines in `metrics.jsonl`, whole or not."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def record(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays; the position of the input is part of it."""
    return json.loads((checkpoint / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]


def assert_same_end(workdir: Path, other: Path, *, tolerance: float = 0.0) -> None:
    """Both runs ended with the same rows, arrays and next batch."""
    last = checkpoint_steps(workdir)[-1]
    assert checkpoint_steps(other)[-1] == last
    ours, theirs = arrays(workdir / f"checkpoints/{last}"), arrays(other / f"checkpoints/{last}")
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 32  # 8 layers, weights and biases, with their momentum
    for name, array in ours.items():
        if tolerance == 0:
            assert array.tobytes() == theirs[name].tobytes(), name
        elif np.isfinite(array).all():  # the plateau's best error is infinite before the first one
            difference = np.abs(array.astype(np.float64) - theirs[name]).max()
            assert difference <= tolerance * np.abs(array).max(), name
    mine, others = record(workdir / f"checkpoints/{last}"), record(other / f"checkpoints/{last}")
    if tolerance == 0:
        assert mine == others
        assert rows(workdir) == rows(other)
    assert mine["input"] == others["input"] == {"next_index": last}
