"""The time from a command to its first training step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from alexnet_jax.errors import UserError
from experiments.shared.command import say
from experiments.step.first_step import DISPATCHED

WARM_STARTS = 3


def startup(config: str, batch: int, fields: Sequence[str]) -> dict[str, Any]:
    """Times the start, first without and then with compiled programs kept on the disk.

    Args:
        config: whose network it is.
        batch: images in a step.
        fields: of the configuration, each FIELD=VALUE.

    Returns:
        Seconds: `cold`, the median of the `warm` ones, and all.

    Raises:
        UserError: there was no first step.
    """
    seconds = []
    command = [sys.executable, "-m", "experiments.step.first_step"]
    command += [f"--config={config}", f"--batch={batch}", *(f"--set={field}" for field in fields)]
    with tempfile.TemporaryDirectory() as folder:
        for start in range(1 + WARM_STARTS):
            begin = time.perf_counter()
            with subprocess.Popen(
                command,
                env=os.environ | {"JAX_COMPILATION_CACHE_DIR": folder},
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout is not None
                line = process.stdout.readline()
                seconds.append(time.perf_counter() - begin)
            if line.strip() != DISPATCHED:
                raise UserError("there was no first step; see what it printed")
            say(f"start {start}: {seconds[-1]:.1f} s")
    return {"cold": seconds[0], "warm": statistics.median(seconds[1:]), "seconds": seconds}
