"""Rings and functional groups of a set of molecules."""

from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
from jaxtyping import Int64
from rdkit import Chem

LARGEST_RING, MOST_RINGS = 12, 10
"""The last bins of the histograms of ring sizes and of rings per molecule, both open."""

SMARTS: Mapping[str, str] = {
    "alkene": "[CX3]=[CX3]",
    "alkyne": "[CX2]#[CX2]",
    "aromatic ring": "a",
    "alcohol": "[CX4][OX2H]",
    "ether": "[#6;!$(C=[O,N])][OX2;!R][#6;!$(C=[O,N])]",
    "cyclic ether": "[#6;!$(C=[O,N])][OX2;R;!r3][#6;!$(C=[O,N])]",
    "epoxide": "C1OC1",
    "aldehyde": "[CX3H1](=O)[#6]",
    "ketone": "[#6][CX3](=O)[#6]",
    "carboxylic acid": "[CX3](=O)[OX2H]",
    "ester": "[CX3](=O)[OX2][#6]",
    "amide": "[NX3][CX3]=O",
    "amine": "[NX3;!r3;!a;!$(N[C,N,O]=[O,N]);!$(N=*)]",
    "aziridine": "C1NC1",
    "imine": "[#6X3;!a]=[NX2]",
    "nitrile": "[CX2]#[NX1]",
    "fluoride": "[#6]F",
}
"""Functional groups that QM9 holds often; they may overlap."""


def ring_and_group_counts(mols: Iterable[Chem.Mol]) -> dict[str, Int64[np.ndarray, "_"]]:
    """Count rings and functional groups.

    Args:
        mols: sanitized molecules with all hydrogen atoms.

    Returns:
        "ring_sizes": the number of rings (smallest set) of each size; "rings": the number of molecules with 0, 1, ...
        rings; "functional_groups": the number of molecules that hold each group of `SMARTS`, and last the number of
        molecules that hold none.
    """
    sizes, rings = np.zeros(LARGEST_RING + 1, np.int64), np.zeros(MOST_RINGS + 1, np.int64)
    groups = np.zeros(len(SMARTS) + 1, np.int64)
    for mol in mols:
        found = mol.GetRingInfo().AtomRings()
        rings[min(len(found), MOST_RINGS)] += 1
        for ring in found:
            sizes[min(len(ring), LARGEST_RING)] += 1
        present = [mol.HasSubstructMatch(pattern) for pattern in _patterns()]
        groups += np.array([*present, not any(present)], np.int64)
    return {"ring_sizes": sizes, "rings": rings, "functional_groups": groups}


@cache
def _patterns() -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmarts(smarts) for smarts in SMARTS.values())
