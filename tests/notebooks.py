"""The notebooks of the documentation: `python -m tests.notebooks` executes them and writes their outputs into them."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of a new kernel; the times of the execution are left out."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": FOLDER}})
    client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": notebook.metadata.kernelspec})
    return notebook


def main() -> None:
    """Execute every notebook and write it."""
    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
