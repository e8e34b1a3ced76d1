"""The tool that plants faults: where it plants them, and that it tells seen ones from unseen."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments.faults.__main__ import draw
from experiments.faults.planting import Fault, faults_of
from experiments.faults.trials import Copy, Trial, run

ROOT = Path(__file__).parents[2]


def changed_lines(source: str) -> list[str]:
    """What the faults of a module make of its lines, without the indentation."""
    before, found = source.splitlines(), []
    for fault in faults_of("m.py", source.encode()):
        after = fault.planted(source.encode()).decode().splitlines()
        changed = [
            i for i, pair in enumerate(zip(before, after, strict=True), 1) if len({*pair}) > 1
        ]
        assert changed[0] == fault.line
        found.append(" ".join(after[i - 1].strip() for i in changed).strip())
    return found


PLACES = {
    "a < b <= c": ["a <= b <= c", "a < b < c"],
    "a > b >= c": ["a >= b >= c", "a > b > c"],
    "a == b": ["a != b"],
    "a is not b": ["a is b"],
    "(a) in (b)": ["(a) not in (b)"],
    "a and b and c": ["a or b and c", "a and b or c"],
    "not (a or b)": ["(a or b)", "not (a and b)"],
    "-a + ~b": ["a + ~b", "-a - ~b", "-a + b"],
    "a // b % c": ["a / b % c", "a // b // c"],
    "a ** b * c / d": ["a * b * c / d", "a ** b / c / d", "a ** b * c * d"],
    "x = (a  # why\n  + b)": [],
    "x = 3": ["x = 4"],
    "x = 1e-5": ["x = 1.00001"],
    "x = True": ["x = False"],
    "x = a if b else c": ["x = a if True else c", "x = a if False else c"],
    "x = [a for a in b if c]": ["x = [a for a in b if True]"],
    "if a:\n  b = c": ["if True:", "if False:"],
    "if a:\n  b()": ["if True:", "if False:"],  # as if b() were removed
    "if a:\n  b()\nelse:\n  c = d": ["if True:", "if False:", "pass"],
    "if (\n  a\n  and b\n):\n  c = d": ["True", "False", "or b"],
    "while a:\n  b = c": ["while False:"],
    "a.b(c)": ["pass"],
    "a += b": ["pass", "a -= b"],
    "a.b = c": ["pass"],
    "del a[b]": ["pass"],
    "x = f(a, b=c, **d)": ["x = f(a, **d)", "x = f(a, b=c, )"],
    "x = f(b=(c))": ["x = f()"],
    "x = f(\n  b=c,  # why\n  d=e,\n)": ["# why", ""],
    "é = 'é' if a < b else é": [
        "é = 'é' if a <= b else é",
        "é = 'é' if True else é",
        "é = 'é' if False else é",
    ],
    "x = 'up'\ny = 'down'\nz = {'left': 1}": [
        "x = 'other'",
        "y = 'left'",
        "z = {'left': 2}",
    ],
    "match a:\n  case 'up':\n    b = c": ["case 'other':"],
    "raise ValueError(f'{a + b}')": ["pass"],
    "print(a + b, c=d)": ["pass"],
    "def f(a: int = 3, b: 'up' = c) -> 'up':\n  '''Doc.'''\n  return f'{a + b}'": [
        "def f(a: int = 4, b: 'up' = c) -> 'up':"
    ],
    "x = zip(a, b, strict=True)\n@f(maxsize=2)\ndef g():\n  return a": [],
    "import a\nassert b < c\n__all__ = ['up']": [],
    "if TYPE_CHECKING:\n  x = 1\nif __name__ == '__main__':\n  f()": [],
}


@pytest.mark.parametrize("source", PLACES)
def test_places_of_faults(source):
    assert sorted(changed_lines(source)) == sorted(PLACES[source])


@pytest.mark.parametrize(
    "module", ["alexnet_jax/run/checkpoint.py", "alexnet_jax/data/decoding.py"]
)
def test_a_fault_leaves_all_other_lines_as_they_are(module):
    source = (ROOT / module).read_bytes()
    faults = faults_of(module, source)
    assert len(faults) > 100
    assert len({fault.key for fault in faults}) == len({fault.planted(source) for fault in faults})
    for fault in faults:
        planted = fault.planted(source)
        assert planted != source
        before, after = source.splitlines(), planted.splitlines()
        assert len(after) == len(before)
        changed = [
            i for i, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new
        ]
        assert fault.lines[0] <= changed[0] == fault.line <= changed[-1] <= fault.lines[1]
        assert fault.diff.splitlines()[0] == f"-{before[changed[0] - 1].decode()}"


def test_a_sample_is_spread_over_the_files():
    def some(file: str, count: int) -> list[Fault]:
        return [Fault(f"{file}{i}", file, i, "", "", (i, i), 0, 0, "") for i in range(count)]

    faults = some("a", 60) + some("b", 30) + some("c", 10)
    few, more = draw(faults, 10, 0), draw(faults, 40, 0)
    assert {*few} < {*more} < {*faults}
    for count, drawn in ((10, few), (40, more)):
        assert len(drawn) == count
        for file, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(sum(fault.file == file for fault in drawn) - share * count) <= 1
    assert draw(faults, 10, 0) == few != draw(faults, 10, 1)
    assert draw(faults, 100, 3) == faults


FILES = {
    "setup.cfg": "[tool:pytest]\npythonpath = .\n",
    ".gitignore": "__pycache__/\n",
    "pkg/__init__.py": "",
    "pkg/m.py": """
        import sys
        TOP = 3
        def capped(x):
            return x if x < TOP else TOP
        def twice(x):
            return 2 * x
        def idle(x):
            return x - 1
        def slow(x):
            return x // 2
        if __name__ == "__main__":
            print(slow(int(sys.argv[1])))
        """,
    "tests/test_first.py": """
        import functools, subprocess, sys
        from pkg.m import capped, twice
        two = functools.cache(twice)
        def test_capped():
            assert [capped(x) for x in (1, 2, 3, 4)] == [1, 2, 3, 3]
        def test_twice():
            two(5)
        def test_twice_again():
            assert two(5) == 10
        def test_process():
            command = [sys.executable, "-m", "pkg.m", "6"]
            assert subprocess.run(command, capture_output=True, text=True).stdout == "3\\n"
        """,
    "tests/test_second.py": """
        import pkg.m
        def test_broken():
            assert pkg.m.twice(1) == 3
        """,
}
"""In `pkg.m`, one test executes `twice` and another asserts; `slow` runs in another process; no
test sees `idle`; `x <= TOP` is no fault."""
OUTCOMES = {
    "TOP = 4": "killed",
    "return x if x <= TOP else TOP": "survived",
    "return x if True else TOP": "killed",
    "return x if False else TOP": "killed",
    "return x / 2": "killed",
    "return 2 / x": "killed",
    "return 3 * x": "killed",
    "return x + 1": "not executed",
    "return x - 2": "not executed",
    "return x // 3": "killed",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with a module and its tests."""
    for file, text in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(textwrap.dedent(text).lstrip())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def faults(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a project."""
    command = [sys.executable, "-m", "experiments.faults", "pkg", "--out=out", *arguments]
    return subprocess.run(
        command,
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )


def outcomes(project: Path) -> dict[str, str]:
    """What became of every fault, by the line that it makes; of a fault tried twice, the last."""
    rows = map(json.loads, (project / "out" / "trials.jsonl").read_text().splitlines())
    return {r["diff"].splitlines()[-1][1:].strip(): r["outcome"] for r in rows if "diff" in r}


def test_seen_and_unseen_faults(project):
    before = {path: path.read_bytes() for path in project.rglob("*.py")}
    done = faults(project, "--workers=2")
    assert done.returncode == 0, done.stderr
    assert outcomes(project) == OUTCOMES
    assert {path: path.read_bytes() for path in project.rglob("*.py")} == before
    summary = json.loads((project / "out" / "summary.json").read_text())
    assert summary["tried"] == summary["faults"] == len(OUTCOMES)
    assert summary["outcomes"] == {"killed": 7, "survived": 1, "not executed": 2}
    assert summary["surviving_share"] == pytest.approx(3 / 10)
    low, high = summary["interval"]
    assert 0.1 < low < 3 / 10 < high < 0.7
    assert summary["tests_left_out"] == ["tests/test_second.py::test_broken"]
    assert summary["machine"]["cores"] and summary["command"].endswith(
        "experiments.faults pkg --workers=2"
    )
    page = (project / "out" / "summary.md").read_text()
    assert page in done.stdout
    for line in ("`pkg/m.py:4` < to <=:", "-    return x if x < TOP else TOP", "- `pkg/m.py`: 8"):
        assert line in page.splitlines()
    assert "| pkg/m.py | 10 | 3 |" in page and "test_broken" in page


def test_goes_on_and_tries_survivors_again_when_a_test_has_changed(project):
    journal = project / "out" / "trials.jsonl"
    few = faults(project, "--sample=3")
    assert "3 of 10 faults, drawn by seed 0" in few.stdout, few.stderr
    assert len(journal.read_text().splitlines()) == 1 + 3
    every = faults(project)
    assert "10 of 10 faults, 3 of them settled before" in every.stderr
    assert len(journal.read_text().splitlines()) == 1 + 3 + 1 + 7
    again = faults(project)
    assert "10 of 10 faults, 10 of them settled before" in again.stderr
    assert again.stdout == every.stdout
    assert len(journal.read_text().splitlines()) == 1 + 3 + 1 + 7
    (project / "tests" / "test_idle.py").write_text(
        "from pkg.m import idle\n\ndef test_idle():\n    assert idle(3) == 2\n"
    )
    mended = faults(project)
    assert "10 of 10 faults, 7 of them settled before" in mended.stderr
    assert "[1/1]" in mended.stderr  # of the files of tests only the new one runs without a fault
    assert outcomes(project) == OUTCOMES | {"return x + 1": "killed", "return x - 2": "killed"}
    whole = journal.read_text()
    journal.write_text(whole[:-5])  # cut short by a kill: that fault is tried again
    assert "10 of 10 faults, 9 of them settled before" in faults(project).stderr
    journal.write_text(whole[5:])
    assert "corrupt" in (broken := faults(project)).stderr and broken.returncode == 1


def test_a_trial_that_does_not_end_is_killed_with_all_that_it_has_started(project, tmp_path):
    (project / "tests" / "test_first.py").write_text(
        textwrap.dedent(
            """
            import subprocess, sys, time
            def test_for_ever():
                subprocess.Popen(["sleep", "1234.5"])
                time.sleep(1000)
            """
        )
    )
    (tmp_path / "compiled").mkdir()
    copy = Copy(project, tmp_path / "copy", tmp_path / "compiled")
    ((_, outcome),) = run([copy], [Trial(["tests/test_first.py"], limit=3.0)])
    assert outcome.word == "timed out" and 3 <= outcome.total < 10
    running = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True).stdout
    assert "sleep 1234.5" not in running


def test_help_and_list(project):
    assert faults(project, "--help").returncode == 0
    listed = faults(project, "--list")
    assert listed.returncode == 0 and not (project / "out").exists()
    assert listed.stdout.count("pkg/m.py:") == 10
    assert "pkg/m.py:10  // to /\n-    return x // 2\n+    return x / 2\n" in listed.stdout
    nothing = subprocess.run(
        [sys.executable, "-m", "experiments.faults", "tests/none.py"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert nothing.returncode == 2 and "no module in tests/none.py" in nothing.stderr
