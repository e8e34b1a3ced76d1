"""Plants faults in modules, one at a time, and reports which of them the tests do not see.

    python -m experiments.faults alexnet_jax/training [--sample=60] [--seed=0] [--list]

A fault is planted in a private copy of the tree, where the tests that execute its line then run. It
is killed if one fails or does not end; it survives if all pass, and also if no test executes it.
The checkout stays as it is but for --out and for .faults, which keeps what the tests execute and
have compiled: delete it at will. The same command resumes where it was stopped. After a change of
any module or test it tries the survivors again, and the faults of the modules that have changed.
"""

import itertools
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.faults.baseline import Baseline
from experiments.faults.planting import Fault, faults_of
from experiments.faults.report import page, summary
from experiments.faults.trials import KILLED, NOT_EXECUTED, TIMED_OUT, Copy, Outcome, run
from experiments.shared.command import Flags, Results, listing, number, say, start
from experiments.shared.journal import Journal, fingerprint, tracked_files


def main(argv: Sequence[str] | None = None) -> None:
    """Lists the faults or tries them."""
    flags = parser()
    options = flags.parse(argv)
    root = Path.cwd()
    sources = {f: (root / f).read_bytes() for f in tracked_files(root) if f.endswith(".py")}
    modules = named(sources, options.targets)
    if not modules:
        named_paths = " ".join(options.targets) or "nothing"
        flags.error(f"no module in {named_paths}: name .py files or folders of them")
    faults = [fault for module in modules for fault in faults_of(module, sources[module])]
    drawn = draw(faults, options.sample or len(faults), options.seed)
    if options.list:
        for fault in drawn:
            print(f"{fault.file}:{fault.line}  {fault.kind}", fault.diff, sep="\n")
        return
    name = "+".join(target.strip("/").replace("/", ".") for target in options.targets)
    results = Results(f"faults/{name}", options)
    journal = Journal(results.folder / "trials.jsonl", fingerprint(sources))
    waiting = [fault for fault in drawn if not settled(journal, fault)]
    say(f"{len(drawn)} of {len(faults)} faults, {len(drawn) - len(waiting)} of them settled before")
    if waiting:
        tests = named(sources, options.tests, "test_*.py")
        try_faults(waiting, root, sources, tests, options.workers, journal)
    result = {
        **results.made_by(),
        "seed": options.seed,
        "faults": len(faults),
        **summary([journal.rows[fault.key] for fault in drawn]),
        "tests_left_out": journal.rows["baseline"]["left_out"],
    }
    results.write("summary.json", result)
    results.write_page("summary.md", page(result))
    results.finish()


def parser() -> Flags:
    """The flags."""
    flags = Flags("faults", __doc__)
    flags.add_argument("targets", nargs="*", help="modules and folders to plant faults in")
    flags.add_argument("--tests", type=listing(), default=["tests"], help="files and folders")
    flags.add_argument("--sample", type=number(0), default=0, help="try so many faults; 0: all")
    flags.add_argument("--seed", type=number(0), default=0, help="of the sample")
    flags.add_argument("--workers", type=number(1), default=os.cpu_count(), help="trials at a time")
    flags.add_argument("--list", action="store_true", help="print the faults, try none")
    return flags


def draw(faults: list[Fault], count: int, seed: int) -> list[Fault]:
    """Some of the faults, spread evenly over the files; a larger sample contains a smaller one.

    Args:
        faults: of all files.
        count: how many to draw.
        seed: decides which.
    """
    place: dict[Fault, float] = {}
    for file in {fault.file for fault in faults}:
        generator = random.Random(f"{seed} {file}")
        of_file = [fault for fault in faults if fault.file == file]
        generator.shuffle(of_file)
        first = generator.random()
        place |= {fault: (i + first) / len(of_file) for i, fault in enumerate(of_file)}
    drawn = {*sorted(faults, key=place.__getitem__)[:count]}
    return [fault for fault in faults if fault in drawn]


def named(files: Iterable[str], paths: list[str], pattern: str = "*.py") -> list[str]:
    """Those of the files that are named, or lie in folders that are."""
    folders = [os.path.relpath(path) for path in paths]
    found = [f for f in files if any(Path(f).is_relative_to(folder) for folder in folders)]
    return [file for file in found if Path(file).match(pattern)]


def settled(journal: Journal, fault: Fault) -> bool:
    """Whether a fault need not be tried: it was killed once, or survived in the same tree."""
    row = journal.rows.get(fault.key, {"outcome": "", "tree": ""})
    return row["outcome"] in (KILLED, TIMED_OUT) or row["tree"] == journal.tree


def try_faults(
    faults: list[Fault],
    root: Path,
    sources: dict[str, bytes],
    tests: list[str],
    workers: int,
    journal: Journal,
) -> None:
    """Tries the faults and keeps in the journal what becomes of them."""
    kept = root / ".faults"
    (kept / "compiled").mkdir(parents=True, exist_ok=True)
    (kept / ".gitignore").write_text("*\n")

    count = itertools.count(1)

    def keep(fault: Fault, outcome: Outcome) -> None:
        about = {name: getattr(fault, name) for name in ("file", "line", "kind", "diff")}
        by = outcome.failed[:1]
        journal.keep(fault.key, **about, outcome=outcome.word, seconds=outcome.total, by=by)
        where = f"{fault.file}:{fault.line}  {fault.kind}"
        say(f"[{next(count)}/{len(faults)}] {outcome.total:5.1f} s  {outcome.word:12}  {where}")

    with tempfile.TemporaryDirectory(prefix="faults-") as home:
        copies = [Copy(root, Path(home, f"{i}"), kept / "compiled") for i in range(workers)]
        baseline = Baseline(copies, tests, kept / "tests", sources)
        if not baseline.seconds:
            sys.exit(
                "no test passes without a fault: run pytest, or update pytest-cov and coverage"
            )
        journal.keep("baseline", left_out=baseline.failing)
        trials = [trial for fault in faults if (trial := baseline.trial(fault))]
        executed = {trial.fault for trial in trials}
        for fault in faults:
            if fault not in executed:
                keep(fault, Outcome(NOT_EXECUTED, 0.0, {}, []))
        for trial, outcome in run(copies, trials):
            if trial.fault:
                keep(trial.fault, outcome)


if __name__ == "__main__":
    start(main)
