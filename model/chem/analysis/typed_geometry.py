"""Bond lengths and angles by type, such as C-C, C=O and H-C-H, and their divergences from data."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from enflow.model.chem.analysis.histograms import Bins, jensen_shannon

SIGNS = {
    Chem.BondType.SINGLE: "-",
    Chem.BondType.DOUBLE: "=",
    Chem.BondType.TRIPLE: "#",
    Chem.BondType.AROMATIC: ":",
}
TYPED_LENGTH_BINS = Bins(300, 3.0)
"""Bond lengths of a type, angstrom; those of inferred bonds may be longer than the stability table has them."""

COMMON = 100
"""A type is compared if the data hold so many of it; below, a divergence is mostly noise."""

ByType = Mapping[str, Float64[np.ndarray, "_"]]


@dataclass(frozen=True)
class TypedGeometry:
    """Bond lengths, angstrom, and angles between bonds, degrees, of a set of molecules, by type.

    A bond is named by its elements in alphabetical order and its order (`:` = aromatic), an angle by the elements of
    its ends and its centre.
    """

    lengths: ByType
    angles: ByType


@dataclass(frozen=True)
class TypeComparison:
    """A type in samples and in data: counts, means, standard deviations, and the Jensen-Shannon divergence in nats."""

    name: str
    counts: tuple[int, int]
    means: tuple[float, float]
    deviations: tuple[float, float]
    divergence: float


def typed_geometry(mols: Iterable[Chem.Mol]) -> TypedGeometry:
    """Measure the bonds and the angles between bonds of sanitized molecules with a conformer."""
    lengths, angles = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for mol in mols:
        positions = mol.GetConformer().GetPositions()
        symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            first, second = sorted((symbols[i], symbols[j]))
            name = f"{first}{SIGNS.get(bond.GetBondType(), '~')}{second}"
            lengths[name].append(float(np.linalg.norm(positions[i] - positions[j])))
        for name, angle in _angles(mol, symbols, positions):
            angles[name].append(angle)
    return TypedGeometry(_arrays(lengths), _arrays(angles))


def compare_types(samples: ByType, data: ByType, bins: Bins) -> list[TypeComparison]:
    """Compare the types that are common in the data, the most frequent first.

    Args:
        samples, data: values by type.
        bins: the bins in which the values are counted.
    """
    found = []
    for name in sorted(data, key=lambda name: -len(data[name])):
        if len(data[name]) < COMMON:
            continue
        both = samples.get(name, np.empty(0)), data[name]
        counts = [bins.count(values) for values in both]
        divergence = jensen_shannon(*counts) if len(both[0]) else float(np.log(2))
        means, deviations = ([float(f(v)) if len(v) else 0.0 for v in both] for f in (np.mean, np.std))
        sizes = len(both[0]), len(both[1])
        found.append(TypeComparison(name, sizes, (means[0], means[1]), (deviations[0], deviations[1]), divergence))
    return found


def mean_divergence(types: Sequence[TypeComparison]) -> float | None:
    """Return the mean of the divergences, weighted by the counts in the data; None without a common type."""
    counts = [one.counts[1] for one in types]
    return float(np.average([one.divergence for one in types], weights=counts)) if types else None


def _angles(mol: Chem.Mol, symbols: Sequence[str], positions: np.ndarray) -> Iterable[tuple[str, float]]:
    for atom in mol.GetAtoms():
        centre = atom.GetIdx()
        ends = [neighbor.GetIdx() for neighbor in atom.GetNeighbors()]
        arms = positions[ends] - positions[centre]
        arms = arms / np.maximum(np.linalg.norm(arms, axis=-1, keepdims=True), 1e-12)
        angles = np.degrees(np.arccos(np.clip(arms @ arms.T, -1, 1)))
        for i, one in enumerate(ends):
            for j in range(i):
                first, second = sorted((symbols[one], symbols[ends[j]]))
                yield f"{first}-{symbols[centre]}-{second}", float(angles[i, j])


def _arrays(values: Mapping[str, list[float]]) -> dict[str, Float64[np.ndarray, "_"]]:
    return {name: np.array(found) for name, found in values.items()}
