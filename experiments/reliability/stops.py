"""Processes that are stopped at random moments: by SIGKILL, and by SIGTERM.

After one to three stops the command is given again and runs to its end. That has to be, bit for
bit, the end of a run that nothing stopped. A SIGTERM also has to be answered: exit code 143 and one
true line, with everything saved.
"""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from experiments.reliability.case import EXACT, FAILED, PATIENCE, Ended, Outcome, start
from experiments.reliability.small import Small, contents, differs

MOMENTS = ("starting", "training", "validating", "saving", "testing", "preparing")
STARTING = 4.0  # seconds, of imports and of preparing the dataset that a first start needs
PREPARING = 3.0


def stop(small: Small, workdir: Path, number: int, moment: str, seed: int) -> Outcome:
    """Stops a command at such moments and gives it again.

    Args:
        small: the run that is disturbed.
        workdir: for this case alone.
        number: of the signal.
        moment: one of MOMENTS, the first stop's; the others come at any.
        seed: of all that is random here.
    """
    rng = random.Random(f"{number} {moment} {seed}")
    out = workdir / "made"
    workdir.mkdir(parents=True)
    if moment == "preparing":
        arguments, moments = small.preparing(out), ["preparing"] * rng.randint(1, 3)
    else:
        flags = [f"--config.data.dir={workdir / 'data'}"]  # so that it prepares its data as well
        arguments = small.training(out, *flags)
        moments = [moment, *rng.choices(MOMENTS[:-1], k=rng.randint(0, 2))]
    met = []
    for now in moments:
        ended, in_time = _stopped(small, out, arguments, number, now, rng)
        if number == signal.SIGTERM and (wrong := _unanswered(ended, in_time)):
            return Outcome(FAILED, f"{now}: {wrong}")
        if ended.code in (0, 1, 2) and (wrong := ended.complaint() or ended.reason()):
            return Outcome(FAILED, f"{now}: {wrong}")
        met.append(now if in_time else f"{now} (ended first)")
    with start(*arguments, compiled=small.compiled) as process:
        words = process.communicate(timeout=PATIENCE)
    ended = Ended(process.returncode, *words)
    if ended.code:
        return Outcome(FAILED, f"does not go on: {ended.complaint() or ended.reason()}")
    if moment == "preparing":
        wrong = None if contents(out) == contents(small.prepared) else "other files"
    else:
        wrong = differs(out, small.unbroken)
    return Outcome(FAILED, wrong) if wrong else Outcome(EXACT, ", ".join(met))


def _stopped(
    small: Small,
    out: Path,
    arguments: tuple[str, ...],
    number: int,
    moment: str,
    rng: random.Random,
) -> tuple[Ended, bool]:
    """How the command ended, and whether the signal came before its end."""
    words = out.with_name("words")
    with words.open("w") as file:
        process = start(*arguments, compiled=small.compiled, stdout=file, stderr=subprocess.PIPE)
    with process:
        while number == signal.SIGTERM and process.poll() is None and not takes_signals(process):
            time.sleep(0.0005)
        reached = waiting_for(moment, out, words, rng)
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        in_time = process.poll() is None
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return Ended(-1, words.read_text(), "goes on after the signal"), True
    return Ended(process.returncode, words.read_text(), err), in_time


def takes_signals(process: subprocess.Popen[str]) -> bool:
    """Whether a process has a handler for SIGTERM: no program has one in Python's own start."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:  # no Linux, or it has ended
        return True
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def waiting_for(
    moment: str, out: Path, words: Path, rng: random.Random, starting: float = STARTING
) -> Callable[[], bool]:
    """Whether the moment has come, to be asked again and again.

    Args:
        moment: one of MOMENTS.
        out: what the command makes.
        words: what it says.
        rng: chooses where in the moment.
        starting: seconds that a start may take.
    """
    begin = time.monotonic()
    rows = rng.randint(1, 12)
    late = {"starting": starting, "preparing": PREPARING}.get(moment, 0.04)
    delay = rng.uniform(0, late)
    seen: list[float] = [begin] if moment in ("starting", "preparing") else []

    def count(text: bytes) -> int:
        metrics = out / "metrics.jsonl"
        return metrics.read_bytes().count(text) if metrics.exists() else 0

    before = {split: count(split) for split in (b'"train"', b'"validation"')}

    def come() -> bool:
        match moment:
            case "training":
                return count(b'"train"') >= before[b'"train"'] + rows
            case "validating":  # a row of training has just been written, a validation comes next
                return count(b'"train"') % 2 == 0 and count(b'"train"') > before[b'"train"']
            case "saving":
                return any((out / "checkpoints").glob("*tmp*"))
            case _:
                return "\ntesting" in words.read_text()

    def reached() -> bool:
        if not seen and come():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + delay

    return reached


def _unanswered(ended: Ended, in_time: bool) -> str | None:
    """What is wrong with the answer to a SIGTERM."""
    if not in_time or ended.code == 0:  # it was just about to end
        return None
    lines = (ended.out.strip() or ended.err.strip()).splitlines()
    if ended.code != 128 + signal.SIGTERM:
        return f"exit code {ended.code}: {ended.err[-300:]!r}"
    if ended.err or not lines or not lines[-1].startswith("stopped by SIGTERM"):
        return f"no true word: {ended.err[-300:]!r}, {lines[-1:]}"
    return None
