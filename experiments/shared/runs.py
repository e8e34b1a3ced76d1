"""The program's own commands, run as a user runs them: each a process of its own."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError
from experiments.shared.command import Results, say
from experiments.shared.journal import Journal


def training(workdir: Path, config: str, fields: Iterable[str]) -> tuple[str, ...]:
    """The words of the command that trains a run, or resumes it.

    Args:
        workdir: of the run.
        config: name or file of its configuration.
        fields: of the configuration, each FIELD=VALUE.
    """
    flags = (f"--workdir={workdir}", f"--config={config}")
    return ("main", *flags, *(f"--config.{field}" for field in fields))


def train(results: Results, name: str, config: str, fields: Iterable[str]) -> str:
    """Trains a run that stays in the folder of the results, or goes on with it where it was.

    Args:
        results: of the experiment; they will say at which commit the run was begun.
        name: of its directory in that folder.
        config: name or file of its configuration.
        fields: of the configuration, each FIELD=VALUE.

    Returns:
        The command, as one would type it in that folder.

    Raises:
        UserError: another command trained it; or it failed.
    """
    words = training(results.folder / name, config, fields)
    command = line(*words).replace(f"{results.folder}/", "")
    journal = Journal(results.folder / "trained.jsonl", results.machine["commit"])
    if name not in journal.rows:
        journal.keep(name, command=command)
    begun = journal.rows[name]
    if begun["command"] != command:
        raise UserError(
            f"{results.folder / name} was trained by `{begun['command']}`, and this would be "
            f"`{command}`: name another folder (--out), or delete {results.folder}"
        )
    call(*words)
    results.trained_at.add(begun["tree"])
    return command


def line(module: str, *arguments: str) -> str:
    """A command of `alexnet_jax` as one types it."""
    return shlex.join(["python", "-m", f"alexnet_jax.{module}", *arguments])


def call(module: str, *arguments: str) -> str:
    """Runs a command of `alexnet_jax` and shows what it prints as it comes.

    If this process is stopped, that one is asked to stop as well, and waited for: a training run
    saves first.

    Returns:
        What it printed, on stdout and stderr.

    Raises:
        UserError: its exit code was not 0.
    """
    say(f"$ {line(module, *arguments)}")
    printed = []
    with subprocess.Popen(
        [sys.executable, "-m", f"alexnet_jax.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        process_group=0,  # Ctrl-C reaches it once, from below: a second one would not let it save
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                printed.append(text)
                say(text.rstrip("\n"))
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        raise UserError(f"alexnet_jax.{module} failed with exit code {code}; see what it printed")
    return "".join(printed)


def metrics(workdir: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a run's metrics that are of a split: 'train', 'validation' or 'test'."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]
