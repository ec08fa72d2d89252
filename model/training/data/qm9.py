"""QM9 as arrays in memory, and batches of molecules of one size as a pure function of (seed, step)."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.elements import QM9
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import DataError

SPLITS = {"train": 0, "valid": 1, "test": 2}
SETTING = "ENFLOW_DATA"
"""Environment variable with the folder of the data files."""


def data_folder() -> Path:
    """Return the folder of the data files: the setting ENFLOW_DATA, by default `data`."""
    return Path(os.environ.get(SETTING, "data"))


def data_file(name: str = "qm9.npz", command: str = "enflow data qm9") -> Path:
    """Return the path of a data file.

    Args:
        name: name of the file in `data_folder()`.
        command: the command that makes the file, for the error text.

    Raises:
        DataError: the file does not exist.
    """
    path = data_folder() / name
    if not path.is_file():
        raise DataError(f"no {path}; run `{command}`, or set {SETTING} to the folder that holds {name}")
    return path


@dataclass(frozen=True)
class MoleculeDataset:
    """The molecules of one split, concatenated.

    Attributes:
        offsets: (M + 1,) index of each molecule's first atom, and the number of atoms.
        atom_types: (A,) indices into the vocabulary.
        positions: (A, 3) angstrom.
        sha256: hash of the file.
    """

    offsets: NDArray[np.int64]
    atom_types: NDArray[np.int64]
    positions: NDArray[np.float32]
    sha256: str

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """The number of atoms of every molecule, (M,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def stack(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the atom types (B, N) and centred positions (B, N, 3) of molecules that all have N atoms."""
        n = int(self.n_atoms[rows[0]])
        atoms = self.offsets[rows][:, None] + np.arange(n)
        x = self.positions[atoms]
        return self.atom_types[atoms], x - x.mean(1, keepdims=True)


def load_qm9(path: Path, split: str, vocabulary: tuple[int, ...] = QM9.atomic_numbers) -> MoleculeDataset:
    """Read one split of a prepared qm9.npz.

    Args:
        path: the file.
        split: "train", "valid" or "test".
        vocabulary: atomic numbers; an atom type is an index into them.

    Raises:
        DataError: the file lacks an array or holds an element outside the vocabulary.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            counts, numbers = file["num_atoms"].astype(np.int64), file["atomic_numbers"]
            positions, selected = file["positions"], file["split"] == SPLITS[split]
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is not a prepared QM9 file: {error}") from error
    atoms = np.repeat(selected, counts)
    lookup = np.full(256, -1, np.int64)
    lookup[list(vocabulary)] = np.arange(len(vocabulary))
    atom_types = lookup[numbers[atoms]]
    if (atom_types < 0).any():
        found = int(numbers[atoms][atom_types < 0][0])
        raise DataError(f"{path} holds atomic number {found}; expected one of {', '.join(map(str, vocabulary))}")
    offsets = np.concatenate([[0], np.cumsum(counts[selected])])
    return MoleculeDataset(offsets, atom_types, positions[atoms].astype(np.float32), sha256_of(path))


def molecules_of(data: MoleculeDataset, vocabulary: Sequence[int], rows: Sequence[int] | None = None) -> list[Molecule]:
    """Return the molecules of a split; `rows` = None returns all."""
    numbers = np.array(vocabulary)[data.atom_types]
    begin, end = data.offsets[:-1], data.offsets[1:]
    picked = range(len(data)) if rows is None else rows
    return [Molecule(numbers[begin[i] : end[i]], data.positions[begin[i] : end[i]]) for i in picked]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def batch_plan(n_atoms: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return the batches of one epoch: molecules of one size each, in random order, every molecule once.

    No batch has a single molecule, unless batch_size is 1: torch.compile treats a dimension of length 1 as a constant
    and compiles the whole network again for it (76 s). The only molecule of a size is repeated in its batch, which
    changes the variance of the loss but not its mean.

    Args:
        n_atoms: (M,) number of atoms of every molecule.
        batch_size: greatest number of molecules per batch.
        seed: seed of the order.
        epoch: number of the epoch, from 0.
    """
    rng = np.random.default_rng([seed, epoch])
    plan = []
    for n in np.unique(n_atoms):
        rows = rng.permutation(np.flatnonzero(n_atoms == n))
        plan += _without_singles([rows[i : i + batch_size] for i in range(0, len(rows), batch_size)], batch_size)
    return [plan[i] for i in rng.permutation(len(plan))]


def _without_singles(parts: list[NDArray[np.int64]], batch_size: int) -> list[NDArray[np.int64]]:
    if batch_size == 1 or len(parts[-1]) > 1:
        return parts
    if len(parts) == 1 or batch_size == 2:
        return [*parts[:-1], np.repeat(parts[-1], 2)]
    return [*parts[:-2], parts[-2][:-1], np.concatenate([parts[-2][-1:], parts[-1]])]


def batches(n_atoms: NDArray[np.int64], batch_size: int, seed: int, first_step: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of the batches from `first_step` on without end; a pure function of (seed, step)."""
    epoch, step = 0, first_step
    while True:
        plan = batch_plan(n_atoms, batch_size, seed, epoch)
        yield from plan[step:]
        step = max(0, step - len(plan))
        epoch += 1
