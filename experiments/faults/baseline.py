"""Which tests execute which lines, and how long they take: learned by running them without faults.

Every file of tests has a process of its own, in which the first test that needs a function compiles
it, and the later ones do not execute its lines; so what a test executes says which files of tests
matter, and which of their tests to try first.
"""

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import coverage

from experiments.faults.planting import Fault
from experiments.faults.trials import SURVIVED, Copy, Outcome, Trial, run
from experiments.shared.command import say
from experiments.shared.journal import fingerprint

SETTINGS = """[run]
parallel = true
core = ctrace
data_file = {folder}/data
include = */tree/*
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected, no-ctracer
"""
STAGE = re.compile(r" \((setup|call|teardown)\)$")
# Seconds that a trial may last, and how many times those of its tests; a fault may make all that is
# compiled anew.
START, PATIENCE = 60.0, 5.0


class Baseline:
    """What is known of the tests.

    Attributes:
        seconds: of every test that passes without a fault.
        failing: tests and files of tests that do not; they are left out.
        executed: for a module's lines, the tests that execute them, and the files of tests that do
            so while they are imported.
    """

    def __init__(
        self, copies: list[Copy], files: list[str], keep: Path, sources: dict[str, bytes]
    ) -> None:
        """Runs every file of tests that `keep` does not know.

        Args:
            copies: where they run.
            files: of tests.
            keep: a folder for what is learned; the same as long as no source changes but that of
                other tests.
            sources: of all modules and tests.
        """
        self.seconds: dict[str, float] = {}
        self.failing: list[str] = []
        self.executed: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        modules = {file: source for file, source in sources.items() if "/test_" not in file}
        places = {file: keep / fingerprint(modules, file, sources[file]) for file in files}
        trials = []
        for file, place in places.items():
            if not (place / "outcome").exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                (place / "settings").write_text(SETTINGS.format(folder=place))
                trials.append(Trial([file], coverage=place / "settings"))
        for number, (trial, outcome) in enumerate(run(copies, trials), 1):
            (file,) = trial.files
            (places[file] / "outcome").write_text(json.dumps(outcome))
            say(f"[{number}/{len(trials)}] {outcome.total:5.1f} s  {file}")
        for file, place in places.items():
            self._read(file, place)

    def _read(self, file: str, place: Path) -> None:
        outcome = Outcome(*json.loads((place / "outcome").read_text()))
        failing = outcome.failed or [file] * (outcome.word != SURVIVED)
        self.failing += failing
        self.seconds |= {test: s for test, s in outcome.seconds.items() if test not in failing}
        for path in place.glob("data*"):
            data = coverage.CoverageData(str(path))
            data.read()
            for measured in data.measured_files():
                executed = self.executed[measured.partition("/tree/")[2]]
                for line, contexts in data.contexts_by_lineno(measured).items():
                    # In a process that a test has started, 'tests/test_a.py::test_b (call)'.
                    executed[line] |= {STAGE.sub("", context) or file for context in contexts}

    def trial(self, fault: Fault) -> Trial | None:
        """The tests that may see a fault, the quickest that execute it first; None if none do.

        They are all the tests of the files in which one executes it: it may leave to the others
        what it has compiled or made.
        """
        lines = self.executed[fault.file]
        tests = set().union(*(lines[i] for i in range(fault.lines[0], fault.lines[1] + 1)))
        importing = {test for test in tests if test == _file(test)}
        if importing:  # then what matters is who uses the module afterwards
            users = set().union(*lines.values()) & self.seconds.keys()
            tests |= {test for test in users or self.seconds if _file(test) in importing}
        cost: dict[str, float] = defaultdict(float)
        for test in tests & self.seconds.keys():
            cost[_file(test)] += self.seconds[test]
        every = [test for test in self.seconds if _file(test) in cost]

        def rank(test: str) -> tuple[bool, float, str, float]:
            """File by file, because the tests of a file share fixtures."""
            file = _file(test)
            return test not in tests, cost[file], file, self.seconds[test]

        limit = START + PATIENCE * sum(self.seconds[test] for test in every)
        return Trial(sorted(cost), sorted(every, key=rank), limit, fault) if every else None


def _file(test: str) -> str:
    return test.partition("::")[0]
