"""Batches: padded tensors from lists of molecules, and back. Nothing else converts between the two."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from enflow.model.chem.elements import SYMBOLS, Vocabulary
from enflow.model.chem.molecule import Molecule, check_vocabulary


@dataclass(frozen=True)
class MoleculeBatch:
    """A batch of molecules, padded to the largest.

    Attributes:
        positions: (B, N, 3) angstrom, zero on padding.
        atom_types: (B, N) index into the vocabulary, zero on padding.
        mask: (B, N) True = real atom.
    """

    positions: Float[Tensor, "B N 3"]
    atom_types: Int[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]


def collate(
    molecules: Sequence[Molecule],
    vocabulary: Vocabulary,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MoleculeBatch:
    """Return centred molecules as one padded batch.

    Args:
        molecules: at least one molecule.
        vocabulary: elements and the largest size of the model.
        dtype: dtype of the positions.
        device: device of the tensors.

    Raises:
        VocabularyError: an element is not in the vocabulary, or a molecule has too many atoms.
    """
    size = max(m.n_atoms for m in molecules)
    positions = np.zeros((len(molecules), size, 3))
    atom_types = np.zeros((len(molecules), size), np.int64)
    mask = np.zeros((len(molecules), size), bool)
    for row, molecule in enumerate(molecules):
        n = molecule.n_atoms
        positions[row, :n] = molecule.centred().positions
        atom_types[row, :n] = _types(molecule, vocabulary)
        mask[row, :n] = True
    return MoleculeBatch(
        torch.from_numpy(positions).to(device, dtype),
        torch.from_numpy(atom_types).to(device),
        torch.from_numpy(mask).to(device),
    )


def split(batch: MoleculeBatch, vocabulary: Vocabulary) -> list[Molecule]:
    """Return the molecules of a batch without padding. Atoms may coincide, as they can in a sample.

    Raises:
        StructureError: a position is not finite or too large.
    """
    numbers = np.array(vocabulary.atomic_numbers)[batch.atom_types.cpu().numpy()]
    positions, mask = batch.positions.double().cpu().numpy(), batch.mask.cpu().numpy()
    return [Molecule(z[m], x[m]) for z, x, m in zip(numbers, positions, mask, strict=True)]


def _types(molecule: Molecule, vocabulary: Vocabulary) -> np.ndarray:
    check_vocabulary(molecule, vocabulary)
    lookup = np.zeros(len(SYMBOLS) + 1, np.int64)
    lookup[list(vocabulary.atomic_numbers)] = np.arange(len(vocabulary))
    types: np.ndarray = lookup[molecule.atomic_numbers]
    return types
