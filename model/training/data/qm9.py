"""QM9 as arrays in memory, and batches of molecules of one size, each a pure function of (seed, step)."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enflow.model.errors import DataError

SPLITS = {"train": 0, "valid": 1, "test": 2}
SETTING = "ENFLOW_DATA"


def data_file(name: str = "qm9.npz", made_by: str = "enflow data qm9") -> Path:
    """A data file in the folder that the setting ENFLOW_DATA names (default: data, where `enflow data` makes it).

    Raises:
        DataError: if the file is not there.
    """
    path = Path(os.environ.get(SETTING, "data")) / name
    if not path.is_file():
        raise DataError(f"no {path}; run `{made_by}`, or name the folder that holds {name} in {SETTING}")
    return path


@dataclass(frozen=True)
class MoleculeDataset:
    """MoleculeDataset of one split, concatenated: offsets (M + 1,), atom_types (A,), positions (A, 3) in angstrom."""

    offsets: NDArray[np.int64]
    atom_types: NDArray[np.int64]
    positions: NDArray[np.float32]
    sha256: str

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def stack(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Atom types (B, N) and centred positions (B, N, 3) of molecules that all have N atoms."""
        n = int(self.n_atoms[rows[0]])
        atoms = self.offsets[rows][:, None] + np.arange(n)
        x = self.positions[atoms]
        return self.atom_types[atoms], x - x.mean(1, keepdims=True)


def load_qm9(path: Path, split: str, vocabulary: tuple[int, ...] = (1, 6, 7, 8, 9)) -> MoleculeDataset:
    """Read one split of a prepared qm9.npz.

    Raises:
        DataError: if the file lacks an array or holds an element outside the vocabulary.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            counts, numbers = file["num_atoms"].astype(np.int64), file["atomic_numbers"]
            positions, of_split = file["positions"], file["split"] == SPLITS[split]
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is not a prepared QM9 file: {error}") from error
    atoms = np.repeat(of_split, counts)
    lookup = np.full(256, -1, np.int64)
    lookup[list(vocabulary)] = np.arange(len(vocabulary))
    atom_types = lookup[numbers[atoms]]
    if (atom_types < 0).any():
        raise DataError(f"{path} holds atomic number {int(numbers[atoms][atom_types < 0][0])}; expected {vocabulary}")
    offsets = np.concatenate([[0], np.cumsum(counts[of_split])])
    return MoleculeDataset(offsets, atom_types, positions[atoms].astype(np.float32), digest_of(path))


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def batch_plan(n_atoms: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """One epoch as batches of equal-sized molecules in random order; each molecule appears once."""
    rng = np.random.default_rng([seed, epoch])
    batches = []
    for n in np.unique(n_atoms):
        rows = rng.permutation(np.flatnonzero(n_atoms == n))
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def batches(n_atoms: NDArray[np.int64], batch_size: int, seed: int, first_step: int) -> Iterator[NDArray[np.int64]]:
    """Endless batches from `first_step` on, the same whether a run was interrupted or not."""
    epoch, step = 0, first_step
    while True:
        plan = batch_plan(n_atoms, batch_size, seed, epoch)
        yield from plan[step:]
        step = max(0, step - len(plan))
        epoch += 1
