"""Breaks runs, files and settings in every way, and reports what came of a user's work.

    python -m experiments.reliability [--only=kill,damage] [--quick]

    kill            SIGKILL at a random moment of a start, a training, a validation, a save, a test
                    or a preparation: the same command then ends bit for bit like an unbroken one
    terminate       SIGTERM at such a moment: exit code 143 and one true line; then the same
    hosts           SIGKILL to one of two or four processes of a run, SIGTERM to one or to all of
                    them: the others end in time, with a true line; then the same
    disk            no file may grow beyond a limit, for every size of a file that a run writes:
                    one line that says so; with space again the same
    damage          every file of a run's directory deleted, truncated, altered or unreadable: it
                    goes on exactly, or refuses and changes nothing
    images          files with random faults: read, or refused with a reason
    weights         likewise
    configurations  random values of random fields: refused, or a step of them can be traced

Anything else is a failure: a traceback, another result, a hanging process. Writes reliability.json
and the page that is printed. The same command resumes where it was stopped, as long as the sources
are the same. --quick takes a sample of each part.
"""

import concurrent.futures
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reliability import damage, disk, hosts, stops
from experiments.reliability.case import EXACT, FAILED, GOOD, REFUSED, Outcome, run
from experiments.reliability.small import Small
from experiments.shared.command import Flags, Results, listing, number, say, start
from experiments.shared.journal import Journal, fingerprint, tracked_files
from experiments.shared.machine import cores, made_by
from experiments.shared.tables import table

PARTS = ("kill", "terminate", "hosts", "disk", "damage", "images", "weights", "configurations")
KILLS, TERMINATIONS = 100, 30
OF_SEVERAL = {signal.SIGKILL: 40, signal.SIGTERM: 20}
MUTANTS = {"images": 10_000, "weights": 1_000, "configurations": 1_000}
PACKAGES = ("jax", "orbax-checkpoint", "numpy", "opencv-python-headless")
AT_ONCE = 100  # mutants in a process
QUICK = {
    "kill": 4,
    "terminate": 2,
    "hosts": 1,
    "disk": 2,
    "damage": 8,
}  # cases; one process of mutants each
QUICK_MUTANTS = {"images": 300, "weights": 40, "configurations": 30}


class Case(NamedTuple):
    """One thing that is to go wrong."""

    part: str
    name: str
    do: Callable[[Path], list[Outcome]]  # in a folder that is not there yet


def main(argv: Sequence[str] | None = None) -> None:
    """Tries all cases that are not in the journal, and reports."""
    flags = Flags("reliability", __doc__)
    flags.add_argument("--only", type=listing(), default=list(PARTS), help="Of the parts above.")
    flags.add_argument("--quick", action="store_true", help="A sample that takes two minutes.")
    flags.add_argument("--workers", type=number(1), default=cores(), help="Cases at a time.")
    options = flags.parse(argv)
    if unknown := set(options.only) - set(PARTS):
        flags.error(f"--only: there is no part {', '.join(sorted(unknown))}")
    results = Results("reliability", options)
    journal = Journal(results.folder / "trials.jsonl", sources())
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        small = Small(Path(folder, "small"))
        chosen = cases(small, options.only, quick=options.quick)
        known = journal.rows
        waiting = [c for c in chosen if known.get(c.name, {}).get("tree") != journal.tree]
        say(f"{len(chosen)} cases, {len(chosen) - len(waiting)} of them tried before")
        for count, (case, outcomes, seconds) in enumerate(tried(waiting, folder, options.workers)):
            rows = [outcome._asdict() for outcome in outcomes]
            journal.keep(case.name, part=case.part, seconds=seconds, outcomes=rows)
            worst = max(outcomes, key=lambda outcome: outcome.word == FAILED)
            place = f"[{count + 1}/{len(waiting)}] {seconds:5.1f} s"
            say(f"{place}  {case.name}: {worst.word}: {worst.detail}"[:200])
    rows = [journal.rows[case.name] for case in chosen]
    result = {
        **results.made_by(),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "tried_before": len(chosen) - len(waiting),
        "parts": {part: summary(part, rows) for part in PARTS if part in options.only},
    }
    results.write("reliability.json", result)
    results.write_page("reliability.md", page(result))
    results.finish()
    if any(part["failures"] for part in result["parts"].values()):
        sys.exit(1)


def sources() -> str:
    """A fingerprint of the program and of this experiment."""
    root = Path(__file__).parents[2]
    files = (f for f in tracked_files(root) if f.startswith(("alexnet_jax/", "experiments/rel")))
    return fingerprint([(file, (root / file).read_bytes()) for file in files])


# --- the cases ------------------------------------------------------------------------------------


def cases(small: Small, parts: Sequence[str], *, quick: bool) -> list[Case]:
    """All that is tried, or a sample of each part."""
    found = []
    for part in parts:
        of_part = list(ALL[part](small, part, quick))
        if quick and part in QUICK:
            of_part = random.Random(part).sample(of_part, min(QUICK[part], len(of_part)))
        found += of_part
    return found


def _stops(small: Small, part: str, quick: bool) -> Iterator[Case]:
    number, count = {
        "kill": (signal.SIGKILL, KILLS),
        "terminate": (signal.SIGTERM, TERMINATIONS),
    }[part]
    for seed in range(count):
        moment = stops.MOMENTS[seed % len(stops.MOMENTS)]
        do = functools.partial(_one, stops.stop, small, number=number, moment=moment, seed=seed)
        yield Case(part, f"{part} while {moment} {seed}", do)


def _hosts(small: Small, part: str, quick: bool) -> Iterator[Case]:
    for count in (2,) if quick else (2, 4):
        small.of_several(count)
        for sent, cases in OF_SEVERAL.items():
            for seed in range(cases // 2):
                moment = hosts.MOMENTS[seed % len(hosts.MOMENTS)]
                given = {"count": count, "number": sent, "moment": moment, "seed": seed}
                name = f"{sent.name} among {count} while {moment} {seed}"
                if not quick or (sent, moment) == (signal.SIGKILL, "training"):
                    yield Case(part, name, functools.partial(_one, hosts.stop, small, **given))


def _disk(small: Small, part: str, quick: bool) -> Iterator[Case]:
    for limit in disk.limits(small):
        do = functools.partial(_one, disk.full_disk, small, limit=limit)
        yield Case(part, f"no file over {limit:,} bytes", do)


def _damage(small: Small, part: str, quick: bool) -> Iterator[Case]:
    for file in damage.files(small):
        for way in damage.WAYS:
            do = functools.partial(_one, damage.damaged, small, file=file, way=way)
            yield Case(part, f"{file} {way}", do)


def _mutants(small: Small, part: str, quick: bool) -> Iterator[Case]:
    count = QUICK_MUTANTS[part] if quick else MUTANTS[part]
    for seed in range(0, count, count if quick else AT_ONCE):
        many = count if quick else AT_ONCE
        do = functools.partial(_many, part, seed, many)
        yield Case(part, f"{many} {part} from {seed}", do)


ALL: dict[str, Callable[[Small, str, bool], Iterator[Case]]] = {
    "kill": _stops,
    "terminate": _stops,
    "hosts": _hosts,
    "disk": _disk,
    "damage": _damage,
    **dict.fromkeys(MUTANTS, _mutants),
}


def _one(do: Callable[..., Outcome], small: Small, workdir: Path, **given: Any) -> list[Outcome]:
    return [do(small, workdir, **given)]


def _many(kind: str, seed: int, count: int, workdir: Path) -> list[Outcome]:
    """The mutants of one process."""
    del workdir
    ended = run("experiments.reliability.mutants", kind, seed, count)
    lines = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    failures = [Outcome(FAILED, line["failed"]) for line in lines if "failed" in line]
    if ended.code or "counts" not in lines[-1]:
        now = [line["now"] for line in lines if "now" in line]
        return [Outcome(FAILED, f"the process died at {now[-1:]}: {ended.err[-300:]}")]
    counts = lines[-1]["counts"]
    good = [Outcome(EXACT, "")] * counts.get("accepted", 0)
    return failures + good + [Outcome(REFUSED, "")] * counts.get("refused", 0)


def tried(
    waiting: list[Case], folder: str, workers: int
) -> Iterator[tuple[Case, list[Outcome], float]]:
    """The cases with their outcomes and seconds, several at a time, each when it is done."""

    def attempt(number: int, case: Case) -> tuple[Case, list[Outcome], float]:
        workdir, began = Path(folder, f"case{number}"), time.monotonic()
        try:
            outcomes = case.do(workdir)
        except subprocess.TimeoutExpired as error:
            outcomes = [Outcome(FAILED, f"hangs: {error}")]
        except Exception as error:  # a result that cannot even be read is one that is lost
            outcomes = [Outcome(FAILED, f"{type(error).__name__}: {error}")]
        shutil.rmtree(workdir, ignore_errors=True)
        return case, outcomes, round(time.monotonic() - began, 1)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(attempt, i, case) for i, case in enumerate(waiting)]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


# --- the report -----------------------------------------------------------------------------------


def summary(part: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of a part, and its failures with the names of their cases."""
    of_part = [row for row in rows if row["part"] == part]
    outcomes = [(row["key"], Outcome(**found)) for row in of_part for found in row["outcomes"]]
    return {
        "tried": len(outcomes),
        "outcomes": Counter(outcome.word for _, outcome in outcomes),
        "failures": [f"{key}: {o.detail}" for key, o in outcomes if o.word == FAILED],
        "seconds": round(sum(row["seconds"] for row in of_part)),
    }


def page(result: dict[str, Any]) -> str:
    """The table and the failures in Markdown."""
    head = ["", "tried", *GOOD, FAILED, "seconds"]
    lines = [
        [name, f"{part['tried']:,}"]
        + [f"{part['outcomes'].get(word, 0):,}" for word in (*GOOD, FAILED)]
        + [f"{part['seconds']:,}"]
        for name, part in result["parts"].items()
    ]
    failures = [f"- {text}" for part in result["parts"].values() for text in part["failures"]]
    shown = ["", "Failures:", "", *failures] if failures else []
    made = f"{made_by(result, PACKAGES)} {result['minutes']} minutes."
    whole = ["# What becomes of a user's work", "", made, "", table(head, lines), *shown]
    return "\n".join(whole) + "\n"


if __name__ == "__main__":
    start(main)
