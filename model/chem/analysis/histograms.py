"""Histograms of a set of molecules, and the divergence of two sets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

from enflow.model.chem.elements import STABILITY_TABLE, SYMBOLS
from enflow.model.chem.molecule import Molecule

CHUNK_TRIPLES = 20_000_000
"""Triples of atoms that are handled at a time; bounds the memory to some tens of megabytes."""


@dataclass(frozen=True)
class Bins:
    """A number of equal bins from 0 to `reach`; the last bin is open."""

    number: int
    reach: float

    @property
    def width(self) -> float:
        """The width of a bin."""
        return self.reach / self.number

    def count(self, values: Float64[np.ndarray, "..."]) -> Int64[np.ndarray, " bins"]:
        """Count the values in each bin."""
        which = np.clip(values.ravel() * (self.number / self.reach), 0, self.number - 1).astype(np.int64)
        return np.bincount(which, minlength=self.number)


DISTANCE_BINS = Bins(100, 13.0)
"""Pair distances, angstrom: the bins of E-NF."""

LENGTH_BINS = Bins(180, 1.8)
"""Bond lengths, angstrom; the reach is longer than every bond of the stability table."""

ANGLE_BINS = Bins(90, 180.0)
"""Bond angles, degrees."""


def histograms(molecules: Sequence[Molecule]) -> dict[str, Int64[np.ndarray, " bins"]]:
    """Count distances of all pairs, bond lengths to 0.01 angstrom, angles to 2 degrees, elements and sizes.

    Raises:
        ValueError: there is no molecule, or one of more than 1000 atoms.
    """
    if not molecules:
        raise ValueError("found no molecules, expected at least one: a histogram of nothing has no shape")
    lengths, angles = (np.zeros(bins.number, dtype=np.int64) for bins in (LENGTH_BINS, ANGLE_BINS))
    elements = np.zeros(len(SYMBOLS) + 1, dtype=np.int64)
    for _, numbers, positions in equal_sizes(molecules):
        bonded = STABILITY_TABLE.orders(numbers, positions) > 0
        lengths += LENGTH_BINS.count(_bond_lengths(bonded, positions))
        angles += ANGLE_BINS.count(_bond_angles(bonded, positions))
        elements += np.bincount(numbers.ravel(), minlength=len(elements))
    sizes = np.bincount([m.n_atoms for m in molecules], minlength=1_001)
    if len(sizes) > 1_001:
        raise ValueError(f"found a molecule of {len(sizes) - 1} atoms, expected at most 1000")
    return {
        "distances": distance_histogram(molecules),
        "bond_lengths": lengths,
        "angles": angles,
        "elements": elements,
        "sizes": sizes,
    }


def jensen_shannon(first: Num[np.ndarray, " bins"], second: Num[np.ndarray, " bins"]) -> float:
    """Return the Jensen-Shannon divergence of two histograms in nats, from 0 to log 2.

    Each bin is raised by 1e-10 as in the code of E-NF:

    JS(p, q) = KL(p, m)/2 + KL(q, m)/2 with m = (p + q)/2.
    """
    p, q = (counts / counts.sum() + 1e-10 for counts in (first, second))
    m = (p + q) / 2
    return float((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2


def distance_histogram(molecules: Sequence[Molecule]) -> Int64[np.ndarray, " bins"]:
    """Count all pair distances in `DISTANCE_BINS`."""
    counts = np.zeros(DISTANCE_BINS.number, dtype=np.int64)
    for _, numbers, positions in equal_sizes(molecules):
        i, j = np.triu_indices(numbers.shape[1], k=1)
        counts += DISTANCE_BINS.count(np.linalg.norm(positions[:, i] - positions[:, j], axis=-1))
    return counts


def equal_sizes(
    molecules: Sequence[Molecule],
) -> Iterator[tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, "B N"], Float64[np.ndarray, "B N 3"]]]:
    """Yield chunks of molecules of one size: rows, atomic numbers, positions."""
    sizes = np.array([m.n_atoms for m in molecules])
    for n_atoms in np.unique(sizes):
        rows = np.flatnonzero(sizes == n_atoms)
        for start in range(0, len(rows), step := max(1, CHUNK_TRIPLES // int(n_atoms) ** 3)):
            chunk = rows[start : start + step]
            numbers = np.stack([molecules[i].atomic_numbers for i in chunk])
            yield chunk, numbers, np.stack([molecules[i].positions for i in chunk])


def _bond_lengths(
    bonded: Bool[np.ndarray, "B N N"], positions: Float64[np.ndarray, "B N 3"]
) -> Float64[np.ndarray, " bonds"]:
    b, i, j = np.nonzero(np.triu(bonded))
    lengths: Float64[np.ndarray, " bonds"] = np.linalg.norm(positions[b, i] - positions[b, j], axis=-1)
    return lengths


def _bond_angles(
    bonded: Bool[np.ndarray, "B N N"], positions: Float64[np.ndarray, "B N 3"]
) -> Float64[np.ndarray, " angles"]:
    """Return the angles in degrees between every two bonds of an atom."""
    once = np.triu(np.ones(bonded.shape[1:], dtype=bool), k=1)
    b, centre, i, j = np.nonzero(bonded[:, :, :, None] & bonded[:, :, None, :] & once)
    first, second = positions[b, i] - positions[b, centre], positions[b, j] - positions[b, centre]
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = (first * second).sum(axis=-1) / np.maximum(lengths, 1e-12)  # atoms of a sample may coincide
    angles: Float64[np.ndarray, " angles"] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return angles
