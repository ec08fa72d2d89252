"""The InChIKeys of QM9, by which a molecule is found to be novel."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from enflow.model.chem.analysis.novelty import hashes, inchikey
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.molecule import Molecule
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.qm9 import SPLITS, load_qm9

ELEMENTS = (1, 6, 7, 8, 9)
"""Atomic numbers of the elements of QM9."""

EVERY = 500
"""Molecules between two reports of the progress."""


def write_inchikeys(data: Path, out: Path, report: ProgressCallback) -> tuple[int, int]:
    """Write the hashes of the InChIKeys of all molecules of a prepared QM9.

    Args:
        data: the prepared qm9.npz.
        out: the .npy file to write.
        report: receives the progress.

    Returns:
        The number of different hashes, and the number of molecules.

    Raises:
        DataError: the data cannot be read.
    """
    keys = []
    n_molecules = 0
    for split in SPLITS:
        for molecule in _molecules(data, split, report):
            n_molecules += 1
            if key := inchikey(molecule, infer_bonds(molecule)):
                keys.append(key)
    found = hashes(keys)
    np.save(out, found, allow_pickle=False)
    return len(found), n_molecules


def _molecules(data: Path, split: str, report: ProgressCallback) -> Iterator[Molecule]:
    part = load_qm9(data, split, ELEMENTS)
    numbers = np.array(ELEMENTS)[part.atom_types]
    for row in range(len(part)):
        if row % EVERY == 0 or row == len(part) - 1:
            report(f"InChIKeys, {split}", row + 1, len(part))
        atoms = slice(part.offsets[row], part.offsets[row + 1])
        yield Molecule(numbers[atoms], part.positions[atoms])
