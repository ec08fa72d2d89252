"""Checks that a molfile holds a molecule in space with all its hydrogen atoms."""

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from enflow.model.chem.elements import STABILITY_TABLE, SYMBOLS
from enflow.model.chem.io.text import Line

DRAWN = 0.24
"""Relative difference of a bond length from the table's beyond which planar coordinates are a drawing.

A carbon dioxide drawn with bonds of 1.5 angstrom differs by 0.25; the longest bond of a planar molecule that was
measured, N-N in dinitrogen tetroxide, by 0.23.
"""


def check_solid(mol: Chem.Mol, positions: Float64[np.ndarray, "N 3"], header: Line) -> None:
    """Raise if the coordinates are a drawing in two dimensions.

    Planar coordinates are a drawing if the header says "2D", if an atom has four neighbours, or if a bond length is
    that of no molecule.

    Raises:
        StructureError: the coordinates are a drawing.
    """
    if len(positions) < 2 or positions[:, 2].any():
        return
    degrees = [mol.GetAtomWithIdx(i).GetDegree() for i in range(len(positions))]
    if max(degrees) > 3 or header.text[20:22] == "2D" or any(_drawn(bond, positions) for bond in mol.GetBonds()):
        raise header.error("found a drawing in two dimensions, expected coordinates in three")


def check_hydrogens(mol: Chem.Mol, counts: Line) -> None:
    """Raise if the bonds ask for hydrogen atoms that the molfile does not hold: it would be another molecule.

    Raises:
        StructureError: hydrogen atoms are missing.
    """
    if not mol.GetNumBonds():
        return
    mol.UpdatePropertyCache(strict=False)
    atoms = [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]
    missing = {i: atom.GetNumImplicitHs() for i, atom in enumerate(atoms, start=1) if atom.GetNumImplicitHs()}
    if missing:
        first, count = next(iter(missing.items()))
        found = sum(atom.GetAtomicNum() == 1 for atom in atoms)
        raise counts.error(
            f"found {found or 'no'} hydrogen atoms where the bonds ask for {found + sum(missing.values())} "
            f"({count} more at atom {first}), expected every hydrogen as an atom"
        )


def _drawn(bond: Chem.Bond, positions: Float64[np.ndarray, "N 3"]) -> bool:
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    first, second = (positions[atom.GetIdx()] for atom in ends)
    length, expected = float(np.linalg.norm(first - second)), _expected_length(bond)
    return abs(length / expected - 1) > DRAWN


def _expected_length(bond: Chem.Bond) -> float:
    """Return the length of the stability table in angstrom; without one, the sum of the covalent radii."""
    ends = bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum()
    names = SYMBOLS[ends[0] - 1], SYMBOLS[ends[1] - 1]
    lengths = STABILITY_TABLE.lengths.get(int(bond.GetBondTypeAsDouble()), {})
    if known := lengths.get(names, lengths.get(names[::-1])):
        return known / 100
    table = Chem.GetPeriodicTable()
    return float(sum(table.GetRcovalent(z) for z in ends))
