"""The notebooks of the documentation run, and give the outputs that they show."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

REASON = "found no packages for notebooks: pip install 'enflow[notebooks]'"
nbformat = pytest.importorskip("nbformat", reason=REASON)
notebooks = pytest.importorskip("tests.notebooks", reason=REASON, exc_type=ImportError)

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def printed(notebook: Any) -> list[str]:
    """Return the texts that a notebook shows, cell by cell."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [each.text if each.output_type == "stream" else each.data["text/plain"] for each in outputs]


def pictures(notebook: Any) -> list[str]:
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    return [kind for data in outputs for kind in data if kind.startswith("image/")]


def words_and_numbers(text: str) -> tuple[str, list[float]]:
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return NUMBER.sub("#", text), [float(each) for each in NUMBER.findall(text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_the_outputs_that_it_shows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(path.parents[2] / "build"))
    shown, found = nbformat.read(path, as_version=4), notebooks.executed(path)
    assert len(pictures(shown)) > 0
    assert pictures(found) == pictures(shown), "run `make notebooks`"
    for old, new in zip(printed(shown), printed(found), strict=True):
        (words, numbers), (new_words, new_numbers) = words_and_numbers(old), words_and_numbers(new)
        assert new_words == words, "run `make notebooks`"
        assert all(math.isclose(a, b, rel_tol=0.05, abs_tol=0.1) for a, b in zip(numbers, new_numbers, strict=True))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_needs_no_network(path: Path) -> None:
    document: dict[str, Any] = json.loads(path.read_text())
    assert path.stat().st_size < 500_000
    html = "".join(str(output) for cell in document["cells"] for output in cell.get("outputs", ()))
    assert not re.search(r"<script|https?://", html)
    codes = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1))
    assert not any(len(line) > 120 for cell in document["cells"] for line in "".join(cell["source"]).splitlines())
