"""The structures of generated molecules beside those of data: rings, functional groups, bonds and angles by type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from enflow.model.chem.analysis.groups import SMARTS, ring_and_group_counts
from enflow.model.chem.analysis.histograms import ANGLE_BINS, jensen_shannon
from enflow.model.chem.analysis.typed_geometry import (
    TYPED_LENGTH_BINS,
    TypeComparison,
    TypedGeometry,
    compare_types,
    mean_divergence,
    typed_geometry,
)
from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.molecule import Molecule

BondedMolecule = Chem.Mol
"""A molecule of RDKit with inferred bonds and the geometry they were inferred from."""

BY_RDKIT = "DetermineBonds"
"""The first word of the method of bonds that RDKit alone found."""


RINGS = ("ring_sizes", "rings")
"""The histograms."""


@dataclass(frozen=True)
class Structures:
    """The structures of the molecules whose bonds were inferred.

    Attributes:
        molecules: their number.
        counts: histograms of rings and functional groups.
        geometry: bond lengths and angles by type.
    """

    molecules: int
    counts: Mapping[str, NDArray[np.int64]]
    geometry: TypedGeometry

    @classmethod
    def of(cls, mols: Sequence[BondedMolecule]) -> "Structures":
        """Return the structures of molecules with bonds and a conformer."""
        return cls(len(mols), ring_and_group_counts(mols), typed_geometry(mols))


def bonded(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> list[BondedMolecule | None]:
    """Return the molecules with their bonds; None where none were found."""
    pairs = zip(molecules, bonds, strict=True)
    return [to_mol(molecule, found) if found.status == "ok" else None for molecule, found in pairs]


def bond_counts(bonds: Sequence[Bonds]) -> dict[str, int]:
    """Count the molecules with inferred bonds, those in one piece, and those whose bonds RDKit found by itself."""
    return {
        "inferred_validity": sum(each.status == "ok" for each in bonds),
        "inferred_whole": sum(each.whole for each in bonds),
        "rdkit_validity": sum((each.method or "").startswith(BY_RDKIT) for each in bonds),
    }


def compare(samples: Structures, data: Structures) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare structures with those of data.

    Returns:
        Divergences in nats, and what the page shows: histograms, shares of molecules by functional group, and for each
        common type of bond and angle a row (see `type_row`).
    """
    lengths = compare_types(samples.geometry.lengths, data.geometry.lengths, TYPED_LENGTH_BINS)
    angles = compare_types(samples.geometry.angles, data.geometry.angles, ANGLE_BINS)
    pairs = {name: (samples.counts[name], data.counts[name]) for name in data.counts}
    found = {name: jensen_shannon(*pair) for name, pair in pairs.items() if all(each.sum() for each in pair)}
    typed = {"bond_lengths_by_type": mean_divergence(lengths), "angles_by_type": mean_divergence(angles)}
    divergences = found | {name: value for name, value in typed.items() if value is not None}
    return divergences, {
        **{name: {"samples": a.tolist(), "data": b.tolist()} for name, (a, b) in pairs.items() if name in RINGS},
        "functional_groups": _group_shares(samples, data),
        "bond_types": [type_row(one) for one in lengths],
        "angle_types": [type_row(one) for one in angles],
    }


def _group_shares(samples: Structures, data: Structures) -> list[list[Any]]:
    """Return name, share of the samples and share of the data for each group."""
    columns = [each.counts["functional_groups"] / max(1, each.molecules) for each in (samples, data)]
    names = [*SMARTS, "none of these"]
    return [[name, float(a), float(b)] for name, a, b in zip(names, *columns, strict=True)]


def type_row(one: TypeComparison) -> list[Any]:
    """Return the name; count, mean and deviation of the samples, then of the data; and the divergence, nats."""
    samples, data = zip(one.counts, one.means, one.deviations, strict=True)
    return [one.name, *samples, *data, one.divergence]
