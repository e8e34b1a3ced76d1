"""Runs of the program's commands as a user starts them: each a process of its own."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from experiments.shared.command import say


def call(module: str, *arguments: str) -> str:
    """Runs `python -m alexnet_jax.MODULE` and shows what it prints as it comes.

    If this process is stopped, that one is asked to stop too, and waited for: a training run saves.

    Returns:
        What it printed, stderr among it.

    Raises:
        UserError: its exit code was not 0.
    """
    words = ["-m", f"alexnet_jax.{module}", *arguments]
    say(f"$ {shlex.join(['python', *words])}")
    lines = []
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        process_group=0,  # Ctrl-C reaches it once, from below: a second one would not let it save
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            say(line.rstrip("\n"))
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        raise UserError(f"alexnet_jax.{module} ended with exit code {code}; what it said is above")
    return "".join(lines)


def train(workdir: Path, config: str, fields: Iterable[str]) -> str:
    """Trains a run, or goes on with it where it was; what was printed.

    Args:
        workdir: of the run.
        config: name or file of its configuration.
        fields: of the configuration, each FIELD=VALUE.

    Raises:
        UserError: the run failed.
    """
    flags = [f"--workdir={workdir}", f"--config={config}"]
    return call("main", *flags, *(f"--config.{field}" for field in fields))


def metrics(workdir: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split in the metrics of a run: 'train', 'validation' or 'test'."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]
