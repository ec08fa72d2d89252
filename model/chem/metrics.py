"""How good a set of molecules is: stability, validity, uniqueness, novelty, distances; each convention is named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from model.chem.elements import STABILITY_TABLE, VALENCES, BondTable
from model.chem.molecule import Molecule

CHUNK_PAIRS = 2_000_000
"""Pairs of atoms measured at a time; bounds the memory to some tens of megabytes."""


@dataclass(frozen=True)
class Stability:
    """Which atoms have exactly their valence by the distance table (E-NF, EDM).

    An atom is stable iff its bond orders sum to its valence; a molecule iff all its atoms are.
    """

    stable_atoms: Int64[np.ndarray, " M"]
    """Stable atoms of each molecule."""
    n_atoms: Int64[np.ndarray, " M"]
    """Atoms of each molecule."""

    @property
    def stable(self) -> Bool[np.ndarray, " M"]:
        """Whether each molecule is stable."""
        return self.stable_atoms >= self.n_atoms

    @property
    def atom_stability(self) -> float:
        """Share of all atoms that are stable."""
        return float(self.stable_atoms.sum() / self.n_atoms.sum())

    @property
    def molecule_stability(self) -> float:
        """Share of molecules that are stable."""
        return float(self.stable.mean())


def stability(molecules: Sequence[Molecule], table: BondTable = STABILITY_TABLE) -> Stability:
    """Atom and molecule stability by the distance table.

    Raises:
        ValueError: there is no molecule.
    """
    _require_some(molecules)
    valences = _valences()
    stable_atoms = np.zeros(len(molecules), dtype=np.int64)
    for rows, numbers, positions in _equal_sizes(molecules):
        bonds = table.orders(numbers, positions).sum(axis=-1)
        stable_atoms[rows] = (bonds == valences[numbers]).sum(axis=-1)
    return Stability(stable_atoms, np.array([m.n_atoms for m in molecules]))


def _require_some(molecules: Sequence[object]) -> None:
    if not molecules:
        raise ValueError("found no molecules, expected at least one: a share of nothing is undefined")


def _valences() -> Int64[np.ndarray, " z"]:
    valences = np.full(119, -1)  # an element without a valence in the table is never stable
    valences[list(VALENCES)] = list(VALENCES.values())
    return valences


def _equal_sizes(
    molecules: Sequence[Molecule],
) -> Iterator[tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, "B N"], Float64[np.ndarray, "B N 3"]]]:
    """Molecules of one size at a time, in chunks: rows (B,), atomic numbers (B, N), positions (B, N, 3)."""
    sizes = np.array([m.n_atoms for m in molecules])
    for n_atoms in np.unique(sizes):
        rows = np.flatnonzero(sizes == n_atoms)
        for start in range(0, len(rows), step := max(1, CHUNK_PAIRS // int(n_atoms) ** 2)):
            chunk = rows[start : start + step]
            numbers = np.stack([molecules[i].atomic_numbers for i in chunk])
            yield chunk, numbers, np.stack([molecules[i].positions for i in chunk])
