"""Padded batches and back."""

import numpy as np
import pytest
import torch

from enflow.model.batch import collate, split
from enflow.model.chem.elements import QM9
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import VocabularyError

WATER = Molecule([8, 1, 1], [[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
FLUORIDE = Molecule([9, 1], [[5.0, 5, 5], [5.0, 5, 5.92]])


def test_molecules_come_back_from_a_batch_centred():
    batch = collate([WATER, FLUORIDE], QM9, dtype=torch.float64)
    assert batch.mask.sum(1).tolist() == [3, 2]
    assert batch.atom_types.tolist() == [[3, 0, 0], [4, 0, 0]]
    assert batch.positions[1, 2].tolist() == [0, 0, 0]
    for found, sent in zip(split(batch, QM9), [WATER, FLUORIDE], strict=True):
        assert found.atomic_numbers.tolist() == sent.atomic_numbers.tolist()
        np.testing.assert_allclose(found.positions, sent.positions - sent.positions.mean(0), atol=1e-12)


def test_a_foreign_element_and_a_large_molecule_are_refused():
    with pytest.raises(VocabularyError, match="found Cl as atom 2"):
        collate([Molecule([1, 17], [[0.0, 0, 0], [0, 0, 1.27]])], QM9)
    with pytest.raises(VocabularyError, match="found 30 atoms, expected at most 29"):
        collate([Molecule([1] * 30, np.arange(90.0).reshape(30, 3))], QM9)
