"""The documents: the example of the library runs as written, links lead somewhere, tables are those of the results."""

import json
import re
import warnings
from pathlib import Path

import pytest

from benchmarks.tables import tables
from enflow.model.errors import InverseWarning
from tests.documents import REPOSITORY, blocks

DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_python_example_works_as_written(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (block,) = blocks("python", "enflow.load")
    warnings.simplefilter("ignore", InverseWarning)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("NLL") == 3


def test_the_table_of_results_shows_the_card():
    metrics = json.loads((REPOSITORY / "weights/qm9/card.json").read_text())["metrics"]
    shares = ("atom_stability", "molecule_stability", "validity", "single_fragment", "uniqueness", "novelty")
    cells = [f"{100 * metrics[name]:.1f}" for name in shares]
    cells += [f"{metrics[name]:.1f} ± {metrics[name + '_se']:.1f}" for name in ("test_nll", "test_nll_without_f")]
    row = f"| **Enflow**, `weights/qm9` | {' | '.join(cells)} | {metrics['nfe_mean']:.0f} |"
    assert row in (REPOSITORY / "README.md").read_text().splitlines(), f"the card's row for the README is now\n{row}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^):]+)\)|^\[.+\]: (\S+)$", document.read_text(), re.MULTILINE)
    targets = [(first or second).partition("#")[::2] for first, second in links]
    places = [(document.parent / path if path else document, anchor) for path, anchor in targets]
    assert not [place for place, _ in places if not place.exists()]
    assert not [(place, anchor) for place, anchor in places if anchor and anchor not in anchors(place)]


def anchors(document: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_generated_tables_are_those_of_the_results():
    for (page, place), table in tables().items():
        document = (REPOSITORY / "docs" / page).read_text()
        assert f"<!-- {place} -->\n{table}\n<!-- end -->" in document, f"{page}: run `make docs`"
