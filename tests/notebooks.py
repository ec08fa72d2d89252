"""The notebooks of the documentation: `python -m tests.notebooks` executes them and writes their outputs into them."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"


def executed(path: Path) -> Any:
    """Return a notebook with the outputs of a new kernel; the times of the execution are left out."""
    notebook = nbformat.read(path, as_version=4)
    options = {"coalesce_streams": True, "record_timing": False}  # on a busy machine the text of a cell comes in parts
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": FOLDER}}, **options)
    client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": notebook.metadata.kernelspec})
    return notebook


def main() -> None:
    """Execute every notebook and write it."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
