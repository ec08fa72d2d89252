"""SMILES: bonds inferred from the geometry alone are those of the SMILES."""

import numpy as np
import pytest
from rdkit import Chem

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.formats import read
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError


@pytest.mark.parametrize(
    "smiles", ["C", "CCO", "c1ccccc1O", "C[C@H](N)C(=O)O", "C#N", "FC(F)F", "[NH3+]CC(=O)[O-]", "[H][H]"]
)
def test_the_geometry_has_the_bonds_of_the_smiles(smiles: str) -> None:
    (found,) = read(f"{smiles} a name\n", "smiles3d")
    assert isinstance(found, Molecule)
    assert found.name == "a name"
    assert infer_bonds(found).smiles == Chem.MolToSmiles(Chem.RemoveHs(Chem.MolFromSmiles(smiles)))


def test_the_same_smiles_gives_the_same_geometry() -> None:
    first, second = read("CCO\nCCO\n", "smiles3d")
    assert isinstance(first, Molecule)
    assert isinstance(second, Molecule)
    assert np.array_equal(first.positions, second.positions)


def test_a_bad_line_never_spoils_the_others() -> None:
    found = read("\nC\nC1CC\n" + "C" * 40 + "\n" + "C" * 10_000 + "\n*\nO\n", "smiles3d")
    kinds = [each.formula if isinstance(each, Molecule) else each.line for each in found]
    assert kinds == ["CH4", 3, 4, 5, 6, "H2O"]
    assert isinstance(found[2], StructureError)
    assert "122 atoms" in found[2].message


@pytest.mark.parametrize("smiles", ["*" * 29, "C*", "[#0]", "[*:1]C"])
def test_an_atom_without_an_element_is_an_error(smiles: str) -> None:
    """RDKit raises for some of them, such as a chain of 29."""
    (error,) = read(smiles, "smiles3d")
    assert isinstance(error, StructureError)
    assert "an atom without an element" in error.message


def test_limits() -> None:
    with pytest.raises(StructureError, match="more than 2"):
        read("C\nC\nC\n", "smiles3d", ReadLimits(max_records=2))


def test_a_molecule_that_no_model_takes_is_not_embedded() -> None:
    ring = "C1" + "=C" * 97 + "1"  # RDKit would try for seconds
    (error,) = read(ring, "smiles3d", ReadLimits(max_embedded_atoms=29))
    assert isinstance(error, StructureError)
    assert "found 100 atoms with hydrogen, expected 1 to 29" in error.message
