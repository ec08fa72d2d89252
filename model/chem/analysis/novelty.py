"""Novelty: whether QM9 has a molecule of the same connectivity, by a set of hashes that comes with the weights."""

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from enflow.model.card import BUNDLED
from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.molecule import Molecule

FILE = BUNDLED / "qm9" / "inchikeys.npy"
"""The hashes of QM9 in ascending order; `enflow data inchikeys` writes them."""

SKELETON = 14
"""Letters of the first block of an InChIKey, which holds formula, connectivity and hydrogens, but no stereochemistry.
The model does not distinguish mirror images, so that the mirror image of a molecule of QM9 is not novel."""


def inchikey(molecule: Molecule, bonds: Bonds) -> str | None:
    """Return the standard InChIKey of a molecule with its bonds; None where there are none."""
    if bonds.status != "ok":
        return None
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(to_mol(molecule, bonds)) or None  # type: ignore[no-untyped-call]


def hashes(inchikeys: Iterable[str]) -> NDArray[np.uint64]:
    """Return the different hashes of the first blocks of InChIKeys, 64 bits each, in ascending order.

    Among M hashes a molecule that is novel is found by chance with probability M / 2^64: below 1e-14 for QM9.
    """
    return np.unique(np.array([_hash(each) for each in inchikeys], dtype=np.uint64))


def is_novel(key: str) -> bool | None:
    """Return True where QM9 has no molecule with the first block of this InChIKey; None where the file is missing."""
    known = known_hashes()
    if known is None:
        return None
    place = int(np.searchsorted(known, np.uint64(_hash(key))))
    return place == len(known) or int(known[place]) != _hash(key)


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key[:SKELETON].encode(), digest_size=8).digest(), "big")


@cache
def known_hashes() -> NDArray[np.uint64] | None:
    """Return the hashes of QM9 in ascending order; None where the file is missing."""
    return np.load(FILE, allow_pickle=False) if FILE.is_file() else None
