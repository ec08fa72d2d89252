"""Molecules in periodic cells: a molecule that is wrapped over the faces of its cell becomes whole again."""

import re

import numpy as np
from jaxtyping import Bool, Float64
from rdkit import Chem

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
    cell = cell_of(molecule)
    if cell is None or molecule.n_atoms > MAX_ATOMS:
        return molecule
    apart = molecule.positions[None, :] - molecule.positions[:, None]
    shifts = _nearest_images(apart, *cell)
    if not shifts.any():
        return molecule
    nearest = apart + shifts
    joined = _joined(molecule, nearest)
    if len(_walk(joined)) == len(_walk(_joined(molecule, apart))):
        return molecule
    positions = molecule.positions.copy()
    for walk in _walk(joined):
        for before, atom in walk:
            positions[atom] = positions[before] + nearest[before, atom]
    i, j = np.nonzero(joined)
    if not np.allclose(positions[j] - positions[i], nearest[i, j], atol=1e-6):
        return molecule
    return Molecule(molecule.atomic_numbers, positions, molecule.name, {**molecule.properties, "unwrapped": True})


def cell_of(molecule: Molecule) -> tuple[Float64[np.ndarray, "3 3"], Bool[np.ndarray, "3"]] | None:
    """Return the cell of a molecule, its vectors in angstrom and the axes that repeat; None where it has none."""
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


def _walk(joined: Bool[np.ndarray, "N N"]) -> list[list[tuple[int, int]]]:
    """Return one walk per connected piece: steps along bonds from an atom that was visited to a new one."""
    walks: list[list[tuple[int, int]]] = []
    unseen = np.ones(len(joined), dtype=bool)
    while unseen.any():
        visited, steps = [int(np.argmax(unseen))], list[tuple[int, int]]()
        unseen[visited[0]] = False
        for before in visited:  # the list grows while it is read
            fresh = np.flatnonzero(joined[before] & unseen).tolist()
            steps += [(before, atom) for atom in fresh]
            visited += fresh
            unseen[fresh] = False
        walks.append(steps)
    return walks
