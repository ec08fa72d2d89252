"""Histograms of a set of molecules, and the divergence of two sets."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

from enflow.model.chem.elements import STABILITY_TABLE, SYMBOLS
from enflow.model.chem.molecule import Molecule

CHUNK_TRIPLES = 20_000_000
"""Triples of atoms that are handled at a time; bounds the memory to some tens of megabytes."""

LONGEST_BOND = 1.8
"""Angstrom; longer than every bond of the stability table."""


def histograms(molecules: Sequence[Molecule]) -> dict[str, Int64[np.ndarray, " bins"]]:
    """Count distances of all pairs, bond lengths to 0.01 angstrom, angles to 2 degrees, elements and sizes.

    Raises:
        ValueError: there is no molecule, or one of more than 1000 atoms.
    """
    if not molecules:
        raise ValueError("found no molecules, expected at least one: a histogram of nothing has no shape")
    lengths, angles = np.zeros(180, dtype=np.int64), np.zeros(90, dtype=np.int64)
    elements = np.zeros(len(SYMBOLS) + 1, dtype=np.int64)
    for _, numbers, positions in equal_sizes(molecules):
        bonded = STABILITY_TABLE.orders(numbers, positions) > 0
        lengths += binned(_bond_lengths(bonded, positions), len(lengths), LONGEST_BOND)
        angles += binned(_bond_angles(bonded, positions), len(angles), 180.0)
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


def distance_histogram(
    molecules: Sequence[Molecule], bins: int = 100, reach: float = 13.0
) -> Int64[np.ndarray, " bins"]:
    """Count all pair distances in equal bins from 0 to `reach` angstrom; the last bin is open (the bins of E-NF)."""
    counts = np.zeros(bins, dtype=np.int64)
    for _, numbers, positions in equal_sizes(molecules):
        i, j = np.triu_indices(numbers.shape[1], k=1)
        counts += binned(np.linalg.norm(positions[:, i] - positions[:, j], axis=-1), bins, reach)
    return counts


def binned(values: Float64[np.ndarray, "..."], bins: int, reach: float) -> Int64[np.ndarray, " bins"]:
    """Count values in equal bins from 0 to `reach`; the last bin is open."""
    which = np.minimum(values.ravel() * (bins / reach), bins - 1).astype(np.int64)
    return np.bincount(which, minlength=bins)


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
