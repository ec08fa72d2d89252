"""Connectivity by distances, and fragments that are opened where they grow."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from enflow.model.chem.connectivity import in_one_piece, joined, opened
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError


def embedded(smiles: str) -> tuple[Chem.Mol, Molecule]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(mol)
    return mol, Molecule.from_rdkit(mol)


@pytest.mark.parametrize("smiles", ["CC(=O)NC", "c1ccoc1", "FC#C", "C1CC1O"])
def test_atoms_are_joined_as_rdkit_says(smiles: str) -> None:
    mol, molecule = embedded(smiles)
    assert np.array_equal(joined(molecule.atomic_numbers, molecule.positions), Chem.GetAdjacencyMatrix(mol))
    assert in_one_piece(molecule)
    apart = Molecule(
        np.tile(molecule.atomic_numbers, 2), np.concatenate([molecule.positions, molecule.positions + 20.0])
    )
    assert not in_one_piece(apart)


def test_a_fragment_is_opened_at_hydrogens_and_at_heavy_atoms() -> None:
    mol, molecule = embedded("CC(=O)NC")
    hydrogens = [atom.GetIdx() for atom in mol.GetAtomWithIdx(4).GetNeighbors() if atom.GetAtomicNum() == 1]
    for attach, removed in (([5], hydrogens), ([hydrogens[1] + 1], hydrogens[1:2])):
        kept = [i for i in range(molecule.n_atoms) if i not in removed]
        expected = Molecule(molecule.atomic_numbers[kept], molecule.positions[kept])
        assert opened(molecule, attach) == expected
        assert opened(expected, None) == expected


@pytest.mark.parametrize(("smiles", "atom"), [("c1ccoc1", 4), ("CC(=O)NC", 2)])
def test_an_atom_whose_valence_is_full_cannot_grow(smiles: str, atom: int) -> None:
    _, molecule = embedded(smiles)
    with pytest.raises(StructureError, match=f"found {molecule.symbols[atom - 1]} as atom {atom} in attach, whose val"):
        opened(molecule, [atom])
    assert opened(molecule, None) == molecule


@pytest.mark.parametrize(
    ("attach", "said"),
    [
        ([0], "found atom 0 in attach, expected 1 to 2"),
        ([3], "found atom 3"),
        ([1, 1], "twice"),
        ([1, 2], "alone"),
    ],
)
def test_atoms_that_cannot_be_opened(attach: list[int], said: str) -> None:
    with pytest.raises(StructureError, match=said):
        opened(Molecule([1, 1], [[0, 0, 0], [0.74, 0, 0]]), attach)


def test_the_number_of_an_atom_is_an_integer() -> None:
    with pytest.raises(StructureError, match=r"found 1\.7 in attach"):
        opened.__wrapped__(Molecule([1, 1], [[0, 0, 0], [0.74, 0, 0]]), [1.7])  # type: ignore[attr-defined]
