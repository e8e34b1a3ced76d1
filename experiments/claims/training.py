"""Trains the networks of a claim: each seed of each arm once, as many at a time as there are cores.

A run that was finished is in the journal and is not trained again; one that was stopped goes on.
Every run is a process of its own, as a user would start it, on one core unless fewer are wanted at
a time: small networks have no use for two.
"""

import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import tqdm

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.settings.fields import flatten
from alexnet_jax.settings.files import LATER
from experiments.claims.claim import Change, Run, Runs
from experiments.shared import machine, runs
from experiments.shared.journal import Journal, fingerprint

OUTCOME = ("top1_error", "top5_error", "loss", "examples")
DIVERGED = "was not a finite number"  # how the program says so: at a rate too high, a finding


class Trainer:
    """Has the runs of one configuration."""

    def __init__(
        self,
        folder: Path,
        config: str,
        overrides: Sequence[str] = (),
        at_once: int | None = None,
    ) -> None:
        """Args:
            folder: of the journal and of the runs.
            config: name or file of the configuration that the arms change.
            overrides: FIELD=VALUE, of all of them.
            at_once: runs that are trained side by side; None: as many as there are cores.

        Raises:
            ConfigError: there is no such configuration, or field.
        """
        self.name, self.folder = config, folder
        self.config = settings.override(settings.load(config), overrides)
        # Nothing is chosen by a test image: no validation, and the test is of the last step.
        self.config.data.validation = ""
        self.config.keep_checkpoints = 1
        self.config.checkpoint_every = max(self.config.checkpoint_every, self.config.epochs / 4)
        self.journal = Journal(folder / "runs.jsonl", machine.describe()["commit"])
        self.places = places(at_once)
        self.processes: list[subprocess.Popen[str]] = []
        self.before: dict[str, list[str]] = {}  # of the networks that others start from

    def first(self, arms: Mapping[str, Change], seeds: Sequence[int]) -> Runs:
        """The networks from whose weights others start: those whose `init_from` is their name.

        Raises:
            UserError: see `runs`.
        """
        self.before |= {name: self.assignments(change) for name, change in arms.items()}
        return self.runs(arms, seeds, weights=True) if arms else {}

    def assignments(self, change: Change) -> list[str]:
        """What an arm changes of the configuration as it is saved, FIELD=VALUE.

        Raises:
            ConfigError: it makes a network that cannot be.
        """
        config = self.config.copy_and_resolve_references()
        change(config)
        settings.check(config)
        before, after = flatten(settings.load(self.name)), flatten(config)
        return [f"{k}={'' if v is None else v}" for k, v in after.items() if v != before[k]]

    def distinct(self, arms: Mapping[str, Change]) -> dict[str, Change]:
        """The arms, but for those that train what one before them does already, as one without
        dropout does where there was none.

        Raises:
            ConfigError: one makes a network that cannot be.
        """
        made: dict[str, str] = {}
        for name, change in arms.items():
            made.setdefault(self.key(self.assignments(change), 0), name)
        return {name: arms[name] for name in made.values()}

    def key(self, assignments: Sequence[str], seed: int) -> str:
        """The name of a run: what makes it, and nothing else; so that a field that comes to the
        configurations later changes no name, it counts where it is not what was before it."""
        whole = flatten(settings.override(settings.load(self.name), assignments))
        if (before := whole.get("init_from")) in self.before:
            whole["init_from"] = self.key(self.before[before], seed)
        whole = {field: of for field, of in whole.items() if LATER.get(field, None) != of}
        for free in ("seed", "data.dir", "keep_checkpoints", "checkpoint_every"):
            whole.pop(free, None)
        return f"{Path(self.name).stem}-{fingerprint(sorted(whole.items()))[:10]}-{seed}"

    def runs(
        self, arms: Mapping[str, Change], seeds: Sequence[int], *, weights: bool = False
    ) -> Runs:
        """All runs of some arms, trained where they are not there yet, or where their weights are
        asked for and are not.

        Raises:
            UserError: one failed; its log says why.
        """
        wanted = [
            (self.key(assignments, seed), assignments, seed)
            for assignments in map(self.assignments, arms.values())
            for seed in seeds
        ]
        there = {key for key in self.journal.rows if not weights or self._is_whole(key)}
        missing = [run for run in wanted if run[0] not in there]
        free: SimpleQueue[str] = SimpleQueue()
        for place in self.places:
            free.put(place)
        with futures.ThreadPoolExecutor(len(self.places)) as pool:
            try:
                jobs = [pool.submit(self._train, free, *run) for run in missing]
                done = futures.as_completed(jobs)
                for job in tqdm.tqdm(done, self.name, len(wanted), initial=len(wanted) - len(jobs)):
                    self.journal.keep(**job.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in self.processes:
                    process.terminate()
                raise
        found = iter(self._run(key, seed) for key, _, seed in wanted)
        return {name: [next(found) for _ in seeds] for name in arms}

    def _is_whole(self, key: str) -> bool:
        """Whether the weights of a run are here, and those of its end."""
        workdir = self.folder / "runs" / key
        return (workdir / "metrics.jsonl").exists() and bool(runs.metrics(workdir, "test"))

    def network(self) -> str:
        """What is trained, before an arm changes it, in words."""
        network, config = settings.network(self.config), self.config
        kernels = ", ".join(str(layer.width) for layer in network.convolutions().values())
        units = ", ".join(str(layer.width) for layer in network.hidden().values())
        return (
            f"convolutions of {kernels} kernels and fully connected layers of {units or 'no'} "
            f"units, in {network.towers} tower{'s' * (network.towers > 1)}; {config.epochs:g} "
            f"epochs in steps of {config.batch_size} images"
        )

    def about(self, *every: Runs) -> dict[str, Any]:
        """How many runs these are, the commits that they were trained at, and the seconds that one
        took, half of them less; None where that was not noted."""
        keys = {run.workdir.name for runs in every for arm in runs.values() for run in arm}
        rows = [self.journal.rows[key] for key in sorted(keys)]
        seconds = [row["seconds"] for row in rows if "seconds" in row]
        return {
            "runs": len(rows),
            "trained_at": sorted({row["tree"] for row in rows}),
            "seconds_a_run": statistics.median(seconds) if seconds else None,
        }

    def command(self, assignments: Sequence[str], seed: int = 0) -> str:
        """The line that repeats a run, after the one that makes the network from which it starts,
        if it does."""
        placed, first = [], ""
        for assignment in assignments:
            if (name := self._before(assignment)) is not None:
                words = [f"seed={seed}", *self.before[name]]
                first = runs.line(*runs.training(Path("W0"), self.name, words)) + " && "
                assignment = "init_from=W0"
            placed.append(assignment)
        words = [f"seed={seed}", *placed]
        return first + runs.line(*runs.training(Path("W"), self.name, words))

    def _train(
        self, free: "SimpleQueue[str]", key: str, assignments: list[str], seed: int
    ) -> dict[str, Any]:
        """Trains one run, on cores that are free: its row of the journal."""
        workdir = self.folder / "runs" / key
        cores, began = free.get(), time.monotonic()
        placed = [self._placed(assignment, seed) for assignment in assignments]
        try:
            self._call(cores, runs.training(workdir, self.name, [f"seed={seed}", *placed]), key)
        except UserError as error:
            if DIVERGED not in str(error):
                raise
        finally:
            free.put(cores)
        test = {str(row["views"]): row for row in runs.metrics(workdir, "test")}
        return {
            "key": key,
            "command": self.command(assignments, seed),
            "seconds": round(time.monotonic() - began),
            "test": {views: {k: row[k] for k in OUTCOME} for views, row in test.items()},
            "training": [
                (row["step"], round(row["loss"], 5), round(row["top1_error"], 5))
                for row in runs.metrics(workdir, "train")
                if math.isfinite(row["loss"])
            ],
        }

    def _placed(self, assignment: str, seed: int) -> str:
        """The same, with the directory of a run in the place of the name of a network."""
        name = self._before(assignment)
        if name is None:
            return assignment
        return f"init_from={self.folder / 'runs' / self.key(self.before[name], seed)}"

    def _before(self, assignment: str) -> str | None:
        """The name of the network from which an arm starts, if it is this field that says so."""
        field, _, value = assignment.partition("=")
        return value if field == "init_from" and value in self.before else None

    def _call(self, cores: str, words: Sequence[str], key: str) -> None:
        module, *arguments = words
        command = [sys.executable, "-m", f"alexnet_jax.{module}", *arguments]
        if cores and shutil.which("taskset"):
            command = ["taskset", "-c", cores, *command]
        log = self.folder / "logs" / f"{key}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        ours = {
            "JAX_COMPILATION_CACHE_DIR": str((self.folder / "compiled").resolve()),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several share a GPU, if there is one
            "TQDM_DISABLE": "1",
        }
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | ours,
                process_group=0,  # Ctrl-C reaches it once, from here
            )
            self.processes.append(process)
            code = process.wait()
        if code:
            last = log.read_text().strip().splitlines()[-1:]
            raise UserError(
                f"{shlex.join(map(str, command))} ended with {code}: {' '.join(last)} (see {log})"
            )

    def _run(self, key: str, seed: int) -> Run:
        row = self.journal.rows[key]
        test = {int(views): numbers for views, numbers in row["test"].items()}
        return Run(seed, test, row["training"], self.folder / "runs" / key)


def places(at_once: int | None) -> list[str]:
    """The cores of each of the runs that are trained side by side, as taskset is told; '' where
    they cannot be told apart.

    Raises:
        UserError: there are not so many cores.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return [""] * (at_once or 1)
    cores = sorted(os.sched_getaffinity(0))
    if (count := at_once or len(cores)) > len(cores):
        raise UserError(f"--at_once={count}: there are {len(cores)} cores")
    return [",".join(map(str, cores[place::count])) for place in range(count)]
