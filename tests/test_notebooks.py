"""Every notebook runs from top to bottom, and shows what a fresh execution gives."""

import importlib.metadata
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from src.tasks.docstrings import LIBRARIES
from tests.conftest import HANG_SECONDS, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def shown(notebook: Any) -> list[list[str]]:
    """What each code cell prints or displays as text; pictures by their kind alone."""
    texts_of_cells = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        texts = [output.get("text") or output["data"].get("text/plain", "") for output in outputs]
        texts_of_cells.append(
            texts + sorted(kind for output in outputs for kind in output.get("data", {}) if kind != "text/plain")
        )
    return texts_of_cells


def unpinned_libraries() -> list[str]:
    """Those of the embedded task's libraries that are here in other versions than the pinned ones."""
    return [name for name, library in LIBRARIES.items() if importlib.metadata.version(name) != library.version]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem == "03_paper_tables")) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_shows_what_a_fresh_execution_gives(path: Path) -> None:
    if path.stem == "02_read_a_sweep" and (other := unpinned_libraries()):
        pytest.skip(f"it shows the texts of the pinned versions' docstrings, and these aren't: {', '.join(other)}")
    notebook = nbformat.read(path, as_version=4)
    committed = shown(notebook)
    assert any(committed), "it was committed without its outputs"
    NotebookClient(notebook, timeout=HANG_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert shown(notebook) == committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_no_warning_and_no_path_of_the_machine_it_was_made_on(path: Path) -> None:
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert str(ROOT) not in str(outputs)
    assert "site-packages" not in str(outputs)


def test_there_are_the_notebooks_that_the_documentation_names() -> None:
    page = (ROOT / "docs/compare.md").read_text()
    assert all(f"notebooks/{path.name}" in page for path in NOTEBOOKS)
    assert len(NOTEBOOKS) == 3
