"""Every notebook runs from top to bottom, and shows what a fresh execution gives."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import HANG_SECONDS, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def shown(notebook: Any) -> list[list[str]]:
    """What each code cell prints or displays as text; pictures by their kind alone."""
    found = []
    for cell in (own for own in notebook.cells if own.cell_type == "code"):
        outputs = [own for own in cell.outputs if own.get("name") != "stderr"]
        texts = [own.get("text") or own["data"].get("text/plain", "") for own in outputs]
        found.append(texts + sorted(kind for own in outputs for kind in own.get("data", {}) if kind != "text/plain"))
    return found


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem == "03_paper_tables")) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_shows_what_a_fresh_execution_gives(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    committed = shown(notebook)
    assert any(committed), "it was committed without its outputs"
    NotebookClient(notebook, timeout=HANG_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert shown(notebook) == committed


def test_there_are_the_notebooks_that_the_documentation_names() -> None:
    page = (ROOT / "docs/compare.md").read_text()
    assert all(f"notebooks/{path.name}" in page for path in NOTEBOOKS)
    assert len(NOTEBOOKS) == 3
