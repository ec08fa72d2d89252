"""Molecules in periodic cells: a molecule that is wrapped over the faces of its cell becomes whole again."""

import re

import numpy as np
from jaxtyping import Bool, Float64
from rdkit import Chem
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from enflow.model.chem.molecule import Molecule

BOND_FACTOR = 1.3
"""Two atoms are joined when they are nearer than the sum of their covalent radii times this."""

MAX_ATOMS = 500
"""Largest molecule that is looked at: the images of all pairs are compared."""


def unwrapped(molecule: Molecule) -> Molecule:
    """Return a molecule whose bonds do not cross the faces of its cell, with the property `unwrapped`.

    The cell is the property `Lattice`, nine numbers in angstrom, and `pbc` says which axes repeat (all, where it is
    missing). A molecule is returned as it is where it has no cell, where it is already whole, or where its bonds
    connect it with its own images, as in a crystal.
    """
    cell = _cell(molecule)
    if cell is None or molecule.n_atoms > MAX_ATOMS:
        return molecule
    apart = molecule.positions[None, :] - molecule.positions[:, None]
    shifts = _nearest_images(apart, *cell)
    if not shifts.any():
        return molecule
    joined = _joined(molecule, apart + shifts)
    if _pieces(joined) == _pieces(_joined(molecule, apart)):
        return molecule
    positions = _assembled(molecule.positions, apart + shifts, joined)
    i, j = np.nonzero(joined)
    if not np.allclose(positions[j] - positions[i], (apart + shifts)[i, j], atol=1e-6):
        return molecule
    return Molecule(molecule.atomic_numbers, positions, molecule.name, {**molecule.properties, "unwrapped": True})


def _cell(molecule: Molecule) -> tuple[Float64[np.ndarray, "3 3"], Bool[np.ndarray, "3"]] | None:
    try:
        vectors = np.array([float(word) for word in str(molecule.properties["Lattice"]).split()]).reshape(3, 3)
    except (KeyError, ValueError):
        return None
    repeats = re.findall("[TF]", str(molecule.properties.get("pbc", "T T T")).upper()[:40])
    periodic = np.array([axis == "T" for axis in repeats])
    if periodic.shape != (3,) or not np.isfinite(vectors).all() or abs(np.linalg.det(vectors)) < 1e-3:
        return None
    return vectors, periodic


def _nearest_images(
    apart: Float64[np.ndarray, "N N 3"], vectors: Float64[np.ndarray, "3 3"], periodic: Bool[np.ndarray, "3"]
) -> Float64[np.ndarray, "N N 3"]:
    """Return the lattice vectors that bring the second atom of each pair next to the first."""
    cells = -np.round(apart @ np.linalg.inv(vectors)) * periodic
    shifts: Float64[np.ndarray, "N N 3"] = cells @ vectors
    return shifts


def _joined(molecule: Molecule, apart: Float64[np.ndarray, "N N 3"]) -> Bool[np.ndarray, "N N"]:
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(z) for z in molecule.atomic_numbers.tolist()])
    joined: Bool[np.ndarray, "N N"] = np.linalg.norm(apart, axis=-1) < BOND_FACTOR * (radii[:, None] + radii)
    np.fill_diagonal(joined, val=False)
    return joined


def _pieces(joined: Bool[np.ndarray, "N N"]) -> int:
    return int(connected_components(csr_array(joined), directed=False)[0])


def _assembled(
    positions: Float64[np.ndarray, "N 3"], apart: Float64[np.ndarray, "N N 3"], joined: Bool[np.ndarray, "N N"]
) -> Float64[np.ndarray, "N 3"]:
    """Place each atom next to the atom by which a walk along the bonds reaches it."""
    placed = positions.copy()
    pieces, labels = connected_components(csr_array(joined), directed=False)
    for piece in range(pieces):
        start = int(np.argmax(labels == piece))
        order, before = breadth_first_order(csr_array(joined), start, directed=False)
        for atom in order[1:]:
            placed[atom] = placed[before[atom]] + apart[before[atom], atom]
    return placed
