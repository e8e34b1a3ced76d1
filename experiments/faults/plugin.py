"""A plugin of pytest: runs the tests of a plan in its order, and records how they went.

`FAULTS_PLAN` names a JSON file with the tests to run, or null for all. Into `FAULTS_RECORD` go the
seconds of every test, and what failed. Under coverage every line gets the test that executed it.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

seconds: dict[str, float] = defaultdict(float)
failed: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Chooses the tests of the plan."""
    plan = json.loads(Path(os.environ["FAULTS_PLAN"]).read_text())
    if plan is not None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[test] for test in plan if test in found]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Tells coverage which test it is."""
    if "COVERAGE_PROCESS_START" in os.environ:
        from coverage import Coverage

        running = Coverage.current()
        assert running is not None, "coverage did not start with the process: it needs version 7.13"
        running.switch_context(item.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Records the files that cannot be imported."""
    if report.failed:
        failed.append(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Records the time that a test took, and whether it failed."""
    seconds[report.nodeid] += report.duration
    if report.failed:
        failed.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Writes the record."""
    record = {"seconds": seconds, "failed": failed}
    Path(os.environ["FAULTS_RECORD"]).write_text(json.dumps(record))
