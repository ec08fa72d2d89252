"""A page of molecules needs no other file, and no text from outside becomes a part of its scripts."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from enflow.model.chem import viewer
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.formats import write
from enflow.model.chem.io.gallery import write_gallery
from enflow.model.chem.molecule import Molecule, Molecules
from enflow.model.chem.notebook import MOST_CARDS, MOST_VIEWS, formula_svg
from enflow.model.chem.viewer import drawing

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], "water", {"nll": -12.3456})
SPITEFUL = Molecule(
    WATER.atomic_numbers,
    WATER.positions,
    name="</script><script>alert(1)</script>",
    properties={'<img src=x onerror="alert(2)">': "</dl><script>alert(3)</script>"},
)


@pytest.fixture(params=[True, False], ids=["with 3Dmol.js", "without"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[bool]:
    place = tmp_path / "3Dmol-min.js"
    if request.param:
        place.write_text("var $3Dmol = 'a </script> b';", encoding="utf-8")
    monkeypatch.setattr(viewer, "LIBRARY", place)
    viewer.library.cache_clear()
    yield bool(request.param)
    viewer.library.cache_clear()


def test_page_loads_nothing(library: bool) -> None:
    molecules = [WATER, WATER]
    page = write_gallery(molecules, [infer_bonds(m) for m in molecules])
    assert page.count("<figure>") == page.count("<svg") == 2
    assert "-12.35" in page
    sources = re.findall(r"(?:src|href|loadScriptAsync)\s*[=(]\s*['\"]([^'\"]*)", page)
    assert [source for source in sources if source] == []
    assert ("$3Dmol.createViewer" in page) == library
    assert page.count("</script>") == (3 if library else 0)  # the library and two views
    assert "failed to load" not in page
    assert len(set(re.findall(r'id="(3dmolviewer_\w+)"', page))) == (2 if library else 0)


def test_text_from_outside_stays_text(library: bool) -> None:
    page = write([SPITEFUL], [infer_bonds(SPITEFUL)], "html")
    assert "alert(1)" in page  # shown, as text
    assert "<script>alert" not in page
    assert "<img" not in page


def test_notebook(library: bool) -> None:
    html = SPITEFUL._repr_html_()
    assert "<svg" in html
    assert "alert" not in html
    assert ("data:text/javascript;base64," in html) == library
    assert "failed to load" not in html


def test_a_list_in_a_notebook_brings_its_library_once(library: bool) -> None:
    html = Molecules([WATER] * (MOST_VIEWS + 2))._repr_html_()
    assert html.count("<svg") == 2 * MOST_VIEWS + 2  # a formula each, and a drawing below each view
    assert html.count("createViewer(") == MOST_VIEWS
    assert html.count("data:text/javascript;base64,") == (1 if library else 0)
    assert len(set(re.findall(r'id="(3dmolviewer_\w+)"', html))) == MOST_VIEWS
    assert Molecules()._repr_html_().count("<svg") == 0


def test_a_long_list_in_a_notebook_says_how_many_it_leaves_out(library: bool) -> None:
    html = Molecules([Molecule([1], [[0.0, 0.0, 0.0]])] * (MOST_CARDS + 7))._repr_html_()
    assert "and 7 more" in html
    assert html.count("(no bonds)") == MOST_CARDS


def test_structural_formulas_draw_the_order_of_each_bond() -> None:
    """RDKit draws a line for each order of a bond: one in ethane, two in ethene, three in ethyne, of carbon alone."""
    for smiles, lines in (("CC", 1), ("C=C", 2), ("C#C", 3)):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        molecule = Molecule.from_rdkit(mol)
        picture = ET.fromstring(formula_svg(molecule, infer_bonds(molecule), 200))
        paths = [each for each in picture.iter() if "bond-0" in each.attrib.get("class", "")]
        assert len(paths) == lines, smiles


def test_drawing_shows_every_atom_and_bond_within_its_frame() -> None:
    rng = np.random.default_rng(2)
    for n_atoms in (1, 2, 29):
        numbers, positions = rng.choice([1, 6, 7, 8, 9, 16], n_atoms), rng.normal(size=(n_atoms, 3))
        picture = ET.fromstring(drawing(numbers, positions, size=100, label='a "b" <c>'))
        circles = [element.attrib for element in picture if element.tag.endswith("circle")]
        assert len(circles) == n_atoms
        assert all(0 <= float(c[axis]) <= 100 for c in circles for axis in ("cx", "cy"))
        assert picture.attrib["aria-label"] == 'a "b" <c>'
    water = ET.fromstring(drawing(WATER.atomic_numbers, WATER.positions))
    assert sum(element.tag.endswith("line") for element in water) == 2
