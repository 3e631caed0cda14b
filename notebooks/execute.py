"""Execute the notebooks again, in place: `python notebooks/execute.py`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main() -> None:
    """Run every notebook from top to bottom and keep its outputs, without times, which differ."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        about = notebook.metadata.copy()
        NotebookClient(notebook, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}).execute()
        notebook.metadata = about
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
