"""The pages in the repository: their tables are made of the readings that lie beside them."""

import json
from pathlib import Path
from typing import Any

import pytest

import experiments.input.report as input_report
import experiments.step.report as step_report
from experiments import fisher, starts, transfer, why
from experiments.claims import __main__ as claims
from experiments.claims import page as claims_page
from experiments.shared.tables import in_groups, listed, table

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def export_tables(rows: list[dict[str, Any]]) -> str:
    """Both tables of the page."""
    report = pytest.importorskip("experiments.export.report", exc_type=ModuleNotFoundError)
    networks = ([row for row in rows if row["network"] == key] for key in report.NAMES)
    return "\n".join(map(report.precisions, networks))


PAGES = {
    "input/benchmark.md": ("input/benchmark.json", lambda r: input_report.rates(r["rows"])),
    "step/benchmark.md": ("step/benchmark.json", lambda r: step_report.rates(r["rows"])),
    "step/operators.md": ("step/operators.json", lambda r: step_report.rates(r["rows"])),
    "transfer/transfer.md": ("transfer/summary.json", lambda r: transfer.errors(r["runs"])),
    "why/why.md": ("why/why.json", why.page),
    "export/benchmark.md": ("export/benchmark.json", lambda r: export_tables(r["rows"])),
}


def cells(page: str) -> list[list[str]]:
    """The cells of all rows of a page's tables, without the rules below their heads."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [row for row in rows if set("".join(row)) - set(":-")]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_its_readings(page: str) -> None:
    """Cell by cell, whatever the width of the columns."""
    file, tables = PAGES[page]
    made = cells(tables(json.loads((RESULTS / file).read_text())))
    kept = cells((RESULTS / page).read_text())
    assert len(kept) > 4 and made == kept


def test_a_table_is_aligned() -> None:
    """Names to the left, numbers to the right as they are written, groups in bold."""
    rows = [("a", ["x", "1,000.50"]), ("a", ["long name", "2e-5"]), ("b", ["x", ""])]
    assert table(["", "rate"], in_groups(rows)).splitlines() == [
        "|           |     rate |",
        "|:----------|---------:|",
        "| **a**     |          |",
        "| x         | 1,000.50 |",
        "| long name |     2e-5 |",
        "| **b**     |          |",
        "| x         |          |",
    ]
    assert listed(["One.", "Two"]) == "- One.\n- Two."
    assert listed([]) == ""


def test_ratios_are_said_in_words() -> None:
    """Each ratio of a kept result has its sentence, with the number."""
    for name in ("benchmark", "operators"):
        result = json.loads((RESULTS / "step" / f"{name}.json").read_text())
        said = list(step_report.comparisons(result))
        sessions = {row["key"].partition("/")[0] for row in result["rows"]}
        startup = result["startup"] is not None
        assert len(said) == len(sessions) + len(result["ratios"]) + startup
        plain = [key for key in result["ratios"] if key.endswith("/to_plain")]
        for key in plain:
            assert any(f"{result['ratios'][key]:.2f} times the plain operators" in s for s in said)
        assert not any("_" in sentence for sentence in said)
        if startup:
            assert f"{result['startup']['cold']:.1f} s with an empty" in said[-1]


def test_the_page_of_the_claims_is_that_of_their_results() -> None:
    """Word for word: who changes a claim's words makes the page anew."""
    folder = RESULTS / "claims"
    assert claims_page.page(claims.read(folder)) == (folder / "claims.md").read_text()


def test_the_page_of_the_starts_is_that_of_their_results() -> None:
    """Likewise."""
    found = json.loads((RESULTS / "starts" / "starts.json").read_text())
    assert starts.page(found, found["runs"]) == (RESULTS / "starts" / "starts.md").read_text()


def test_the_page_of_the_beaten_method_is_that_of_its_results() -> None:
    """Beside the networks that the claims have trained."""
    found = json.loads((RESULTS / "claims" / "fisher.json").read_text())
    assert fisher.page(found) == (RESULTS / "claims" / "fisher.md").read_text()
