"""Objects of RDKit and ASE: a molecule comes back equal, and an unfit object is refused with a sentence."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as ase_molecule
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from enflow.model.chem.molecule import Molecule, as_molecules
from enflow.model.errors import StructureError

PROPERTIES = {"nll": -80.5, "seed": 3, "valid": True, "note": "two\nlines"}


def ethanol() -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def test_rdkit_and_back() -> None:
    positions = ethanol().GetConformer().GetPositions()
    molecule = Molecule([6, 6, 8, 1, 1, 1, 1, 1, 1], positions, "ethanol", PROPERTIES)
    mol = molecule.to_rdkit()
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "CCO"
    assert mol.GetDoubleProp("nll") == -80.5
    again = Molecule.from_rdkit(mol)
    assert (again, again.name, again.properties) == (molecule, "ethanol", PROPERTIES)


@pytest.mark.parametrize(
    ("mol", "message"),
    [
        ("CCO", "found a str, expected an RDKit molecule"),
        (Chem.AddHs(Chem.MolFromSmiles("CCO")), "found no conformer in three dimensions"),
        (Chem.RemoveHs(ethanol()), "found 6 hydrogens without atoms"),
    ],
)
def test_an_unfit_rdkit_molecule_is_refused(mol: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Molecule.from_rdkit(mol)


def test_a_missing_ase_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(ImportError, match="pip install ase"):
        Molecule([1], [[0, 0, 0]]).to_ase()
    with pytest.raises(StructureError, match=r"found a list, expected ase\.Atoms"):
        Molecule.from_ase([1, 2])


def test_wrapped_atoms_of_ase_are_unwrapped() -> None:
    atoms = SimpleNamespace(  # the part of ase.Atoms that is used
        get_atomic_numbers=lambda: np.array([9, 1]),
        get_positions=lambda: np.array([[0.1, 0, 0], [9.2, 0, 0]]),
        get_pbc=lambda: np.array([True, False, False]),
        get_cell=lambda: np.diag([10.0, 10.0, 10.0]),
        info={"energy": -1.5, "name": "hydrogen fluoride"},
    )
    molecule = Molecule.from_ase(atoms)
    np.testing.assert_allclose(np.diff(molecule.positions, axis=0), [[-0.9, 0, 0]])
    assert molecule.name == "hydrogen fluoride"
    assert molecule.properties.items() >= {"energy": -1.5, "unwrapped": True}.items()


def test_ase_and_back() -> None:
    water = Molecule([8, 1, 1], [[0, 0, 0.1], [0, 0.76, -0.48], [0, -0.76, -0.48]], "water", PROPERTIES)
    again = Molecule.from_ase(water.to_ase())
    assert (again, again.name, again.properties) == (water, "water", PROPERTIES)
    assert water.with_properties(name="ice").to_ase().info["name"] == "water"


def test_a_cell_goes_to_ase_and_back() -> None:
    cell = {"Lattice": "10.0 0.0 0.0 0.0 11.0 0.0 0.0 0.0 12.0", "pbc": "T T F"}
    fluoride = Molecule([9, 1], [[1.0, 0, 0], [1.9, 0, 0]], properties=cell)
    atoms = fluoride.to_ase()
    assert atoms.cell.lengths().tolist() == [10.0, 11.0, 12.0]
    assert Molecule.from_ase(atoms).properties == cell


def test_a_molecule_of_ase_and_back() -> None:
    """Acetaldehyde of ASE's G2 set has seven atoms; the distances are those that ASE computes."""
    atoms = ase_molecule("CH3CHO")
    molecule = Molecule.from_ase(atoms)
    assert molecule.formula == "C2H4O"
    again = Molecule(molecule.atomic_numbers, molecule.positions, "aldehyde", PROPERTIES).to_ase()
    assert isinstance(again, Atoms)
    np.testing.assert_array_equal(again.get_all_distances(), atoms.get_all_distances())
    assert again.info == {"name": "aldehyde", **PROPERTIES}
    assert Molecule.from_ase(again) == molecule


def test_objects_of_all_packages_alone_and_together() -> None:
    mol, atoms = ethanol(), ase_molecule("CH3CH2OH")
    own = Molecule.from_rdkit(mol)
    assert as_molecules(own) == as_molecules(mol) == as_molecules([mol]) == as_molecules(Chem.RWMol(mol)) == [own]
    assert [each.formula for each in as_molecules(each for each in (own, mol, atoms))] == ["C2H6O"] * 3
    assert as_molecules(atoms) == [Molecule.from_ase(atoms)]
    assert as_molecules([]) == []


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("CCO", r"^found a str, expected an enflow\.Molecule, an RDKit molecule with a conformer or ase\.Atoms"),
        (None, "^found a NoneType, expected"),
        (3, "^found a int, expected"),
        ([ethanol(), "CCO"], "^molecule 2: found a str, expected"),
        ({"atoms": 3}, "^found a dict, expected"),
        ([Chem.MolFromSmiles("CCO")], "^molecule 1: found no conformer in three dimensions"),
        (Chem.RemoveHs(ethanol()), "^found 6 hydrogens without atoms"),
        (Atoms(), "^found atomic numbers of shape"),
    ],
)
def test_another_object_gets_a_sentence(found: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        as_molecules(found)
