"""Several processes of one run: one is killed at a random moment, or some are asked to stop.

Whoever is left when a process is killed has to end, within the patience it was given, with an exit
code other than 0; among all that are left at least one true sentence is said, and none says two.
After SIGTERM, to any of them or to all one after the other, all have to end: with one sentence of
process 0 and the same step saved, if training was under way. Then the same commands are given
again. That has to be, bit for bit, the end of a run that nothing stopped, and for two processes
that of one with two devices.
"""

import random
import re
import signal
import subprocess
import time
from pathlib import Path

from experiments.reliability.case import EXACT, FAILED, PATIENCE, Ended, Outcome
from experiments.reliability.processes import Processes
from experiments.reliability.small import Small, differs
from experiments.reliability.stops import takes_signals, waiting_for

# Half of all stops come in the start, which has the most parts: imports, meeting, preparing data,
# connecting, compiling.
MOMENTS = ("starting", "training", "starting", "validating", "starting", "saving", "testing")
STARTING = 12.0  # seconds
SILENT = 10  # seconds, the patience of the processes
SLACK = 6.0  # seconds more, to say it and to end
IMPORTING = 15.0  # seconds that a process may take until it looks for the others
APART = 1.0  # seconds between signals that mean the same
TRUE = re.compile(r"process( \d+)? has (gone|ended)|not all processes met")


def stop(small: Small, workdir: Path, count: int, number: int, moment: str, seed: int) -> Outcome:
    """Stops a run of several processes once or twice, and gives the commands again.

    Args:
        small: the run that is disturbed.
        workdir: for this case alone.
        count: of processes.
        number: of the signal.
        moment: one of MOMENTS, the first stop's; a second one comes at any.
        seed: of all that is random here.
    """
    rng = random.Random(f"{count} {number} {moment} {seed}")
    out = workdir / "made"
    flags = [f"--config.data.dir={workdir / 'data'}"]  # so that they prepare their data as well
    arguments = small.training(out, *flags)
    moments, met = [moment, *rng.choices(MOMENTS, k=rng.randint(0, 1))], []
    for turn, now in enumerate(moments):
        words = workdir / f"words{turn}"
        with Processes(words, count, *arguments, patience=SILENT, compiled=small.compiled) as run:
            while number == signal.SIGTERM and not all(map(takes_signals, run.running.values())):
                time.sleep(0.0005)
            reached = waiting_for(now, out, run.out(0), rng, STARTING)
            while len(run.alive()) == count and not reached():
                time.sleep(0.0005)
            met.append(now if len(run.alive()) == count else f"{now} (ended first)")
            if number == signal.SIGKILL:
                wrong = _killed(run, rng.randrange(count))
            else:
                wrong = _asked(run, rng.sample(range(count), rng.choice((1, count))), rng)
        if wrong:
            return Outcome(FAILED, f"{', '.join(met)}: {wrong}")
    again = Processes(workdir / "again", count, *arguments, compiled=small.compiled)
    for process, ended in enumerate(again.ended(PATIENCE)):
        if ended.code or ended.err or (process and ended.out):
            said = ended.complaint() or ended.reason() or ended.err[-300:] or ended.out[-300:]
            return Outcome(
                FAILED, f"process {process} does not go on after {', '.join(met)}: {said}"
            )
    wrong = differs(out, small.of_several(count))
    return (
        Outcome(FAILED, f"{', '.join(met)}: {wrong}") if wrong else Outcome(EXACT, ", ".join(met))
    )


def _killed(run: Processes, victim: int) -> str | None:
    """Kills one; what is wrong with the end of the others."""
    started = run.out(0).stat().st_size > 0
    in_time = victim in run.alive()
    run.send(signal.SIGKILL, victim)
    try:
        ended = run.ended(SILENT + SLACK + (0 if started else IMPORTING))
    except subprocess.TimeoutExpired:
        return (
            f"process {victim} of {len(run.running)} was killed, and others went on: {_said(run)}"
        )
    others = {process: one for process, one in enumerate(ended) if process != victim}
    if not in_time or all(one.code == 0 for one in others.values()):  # it was about to end
        return None
    if wrong := _untrue(others):
        return f"process {victim} of {len(ended)} was killed: {wrong}"
    return None


def _untrue(others: dict[int, Ended]) -> str | None:
    """What is wrong with the end of those that are left."""
    said = 0
    for process, one in others.items():
        if one.code != 1:
            return f"process {process}: exit code {one.code}: {one.err[-300:]!r}"
        lines = one.err.splitlines()
        if len(lines) > 1 or not all(line.startswith("error: ") for line in lines):
            return f"process {process} says {one.err[-600:]!r}"
        if lines and not TRUE.search(one.err):
            return f"process {process} gives another reason: {one.err!r}"
        if re.search(rf": process {process} has", one.err):
            return f"process {process} says that it has gone itself: {one.err!r}"
        said += len(lines)
    return None if said else "nobody says why"


def _asked(run: Processes, asked: list[int], rng: random.Random) -> str | None:
    """Asks some to stop; what is wrong with the end of all."""
    apart, started = rng.uniform(0, APART), run.out(0).stat().st_size > 0
    in_time = len(run.alive()) == len(run.running)
    for process in asked:
        run.send(signal.SIGTERM, process)
        time.sleep(apart)
    try:
        ended = run.ended(SILENT + SLACK + (0 if started else IMPORTING))
    except subprocess.TimeoutExpired:
        return f"processes {asked} were asked to stop, and some went on: {_said(run)}"
    if not in_time or all(one.code == 0 for one in ended):  # they were about to end
        return None
    code = 128 + signal.SIGTERM
    sentences = []
    for process, one in enumerate(ended):
        if one.code != code and (process in asked or one.code != 1):
            return f"process {process}, asked {asked}: exit code {one.code}: {one.err[-300:]!r}"
        last = (one.out.splitlines() or [""])[-1]
        sentences += [line for line in [*one.err.splitlines(), last] if "stopped by" in line]
        if any(
            "stopped by" not in li and not li.startswith("error: ") for li in one.err.splitlines()
        ):
            return f"process {process}, asked {asked}, says {one.err[-600:]!r}"
    if not sentences:
        return f"nobody says that {asked} were asked"
    if any("saved at" in line for line in sentences) and len(sentences) > 1:
        return f"asked {asked}: {sentences}"
    return None


def _said(run: Processes) -> str:
    """The last words of each, and whether it had to be killed."""
    lines = []
    for process, one in run.running.items():
        words = run.out(process).read_text() + run.err(process).read_text()
        lines.append(f"{process}: code {one.returncode}, {words[-200:]!r}")
    return "; ".join(lines)
