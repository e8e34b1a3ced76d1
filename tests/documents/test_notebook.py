"""The notebook: its two forms are one, and it runs as it stands."""

import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

PAGES = sorted((Path(__file__).parents[2] / "experiments" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_two_forms_are_one(page: Path) -> None:
    """Cell by cell; the `.ipynb` was run, without an error, and shows what came out."""
    text, notebook = jupytext.read(page), jupytext.read(page.with_suffix(".ipynb"))
    both = [[(cell.cell_type, cell.source) for cell in form.cells] for form in (text, notebook)]
    assert both[0] == both[1]
    cells = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert re.search(r"^ *%pip install", cells, re.MULTILINE), "a fresh Colab has no package"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    pictures = [name for output in outputs for name in output.get("data", {}) if "image" in name]
    assert len(pictures) == 4


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, from the first cell to the last, and the towers are two devices."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = jupytext.read(page)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "mesh of 1 x 2 (data x tower) on 2 cpu devices" in said
    assert "of 200 images" in said
