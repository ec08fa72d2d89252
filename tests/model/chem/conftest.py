"""Reference molecules: the test split of QM9, and samples of the original model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enflow.model.chem.molecule import Molecule


@pytest.fixture(scope="session")
def qm9_test(shared: Path) -> Callable[[int], list[Molecule]]:
    """Return a function that gives the first n molecules of the test split, in a fixed random order."""
    data = np.load(shared / "data" / "qm9.npz")
    ends = np.cumsum(data["num_atoms"], dtype=np.int64)
    test = np.random.default_rng(0).permutation(np.flatnonzero(data["split"] == 2))
    numbers, positions, sizes = data["atomic_numbers"], data["positions"], data["num_atoms"]

    def first(n: int) -> list[Molecule]:
        atoms = [slice(ends[i] - sizes[i], ends[i]) for i in test[:n]]
        return [Molecule(numbers[a], positions[a]) for a in atoms]

    return first


@pytest.fixture(scope="session")
def original_samples(shared: Path) -> list[Molecule]:
    """Return 350 molecules sampled by the authors' released model."""
    data = np.load(shared / "reference" / "samples.npz")
    rows = zip(data["atomic_numbers"], data["positions"], data["node_mask"], strict=True)
    return [Molecule(numbers[mask], positions[mask]) for numbers, positions, mask in rows]
