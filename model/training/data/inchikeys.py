"""The InChIKeys of QM9, by which a molecule is found to be novel."""

from pathlib import Path

import numpy as np

from enflow.model.chem.analysis.novelty import hashes, inchikey
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.elements import QM9
from enflow.model.files import output
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.qm9 import SPLITS, load_qm9, molecules_of

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
        part = load_qm9(data, split)
        n_molecules += len(part)
        for row, molecule in enumerate(molecules_of(part, QM9.atomic_numbers)):
            if row % EVERY == 0 or row == len(part) - 1:
                report(f"InChIKeys, {split}", row + 1, len(part))
            if key := inchikey(molecule, infer_bonds(molecule)):
                keys.append(key)
    found = hashes(keys)
    with output(out) as file:
        np.save(file, found, allow_pickle=False)
    return len(found), n_molecules
