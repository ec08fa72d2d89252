"""The preparation of QM9 from its official files: 133,885 small organic molecules (Ramakrishnan et al. 2014).

Source: Sci. Data 1, 140022.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.elements import ATOMIC_NUMBERS
from enflow.model.errors import DataError
from enflow.model.files import replacement
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.download import RemoteFile

OFFICIAL = 3
"""Value of the array `source` for the official files; 0 to 2 are copies by others, which lack some molecules."""


@dataclass(frozen=True)
class Archive:
    """The official files and the numbers of molecules in them."""

    molecules: RemoteFile
    uncharacterized: RemoteFile
    n_molecules: int = 133_885
    n_uncharacterized: int = 3_054
    n_train: int = 100_000
    n_valid: int = 17_748


# TensorFlow Datasets lists these sizes and SHA-256 for the same addresses; figshare publishes sizes and MD5 only.
QM9_ARCHIVE = Archive(
    molecules=RemoteFile(
        "dsgdb9nsd.xyz.tar.bz2",
        "https://ndownloader.figshare.com/files/3195389",
        86_144_227,
        "3a63848ac80691bdb8d41834b575afad345b9300d7a2db0c38adb7f6eaa8360c",
    ),
    uncharacterized=RemoteFile(
        "uncharacterized.txt",
        "https://ndownloader.figshare.com/files/3195404",
        486_752,
        "3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24",
    ),
)


@dataclass(frozen=True)
class RawMolecule:
    """The content of one raw file: index (from 1), atomic numbers (N,), positions (N, 3) in angstrom."""

    index: int
    atomic_numbers: NDArray[np.uint8]
    positions: NDArray[np.float32]


def prepare(out: Path, report: ProgressCallback, files: Path | None = None, archive: Archive = QM9_ARCHIVE) -> Path:
    """Write qm9.npz without the uncharacterized molecules, with the split of EGNN, E-NF and EDM.

    Arrays: index (M,) int32 from 1, num_atoms (M,) uint8, atomic_numbers (A,) uint8, positions (A, 3) float32 in
    angstrom as in the raw files, split (M,) uint8 with 0 train, 1 valid, 2 test, source (M,) uint8.

    Args:
        out: folder for qm9.npz, and for the official files if they are downloaded.
        report: receives the progress.
        files: folder that already holds the official files; None = download them.
        archive: description of the official files.

    Returns:
        The path of qm9.npz.

    Raises:
        DataError: a file cannot be downloaded, is not the official one, or holds another number of molecules.
    """
    raw, listed = (_obtain(file, out, files, report) for file in (archive.molecules, archive.uncharacterized))
    excluded = read_uncharacterized(listed, archive.n_uncharacterized)
    included = np.setdiff1d(np.arange(1, archive.n_molecules + 1), excluded)
    kept = set(included.tolist())
    molecules = {}
    for done, molecule in enumerate(read_archive(raw), start=1):
        if molecule.index in kept:
            molecules[molecule.index] = molecule
        if done % 500 == 0 or done == archive.n_molecules:
            report("reading molecules", done, archive.n_molecules)
    if missing := kept - molecules.keys():
        raise DataError(f"{raw} lacks {len(missing)} of {archive.n_molecules} molecules, the first is {min(missing)}")
    return _write(out / "qm9.npz", [molecules[i] for i in included.tolist()], split(included, archive))


def split(included: NDArray[np.int64], archive: Archive = QM9_ARCHIVE) -> NDArray[np.uint8]:
    """Return 0 (train), 1 (valid) or 2 (test) for each included index: the split of EGNN, E-NF and EDM.

    The split uses the legacy NumPy generator with seed 0.
    """
    order = np.random.RandomState(0).permutation(len(included))
    parts = np.full(len(included), 2, np.uint8)
    parts[order[: archive.n_train]] = 0
    parts[order[archive.n_train : archive.n_train + archive.n_valid]] = 1
    return parts


def read_uncharacterized(path: Path, expected: int) -> NDArray[np.int64]:
    """Read the indices of the molecules that failed the consistency check: the lines that begin with an integer.

    Raises:
        DataError: the file lists another number of molecules than expected.
    """
    words = [line.split()[:1] for line in path.read_text().splitlines()]
    indices = np.array([int(word[0]) for word in words if word and word[0].isdigit()], np.int64)
    if len(indices) != expected:
        raise DataError(f"{path} lists {len(indices)} molecules; expected {expected}")
    return indices


def read_archive(path: Path) -> Iterator[RawMolecule]:
    """Yield the molecules of the raw archive in its order.

    Raises:
        DataError: the archive is damaged, or one of its files is not a molecule.
    """
    try:
        with tarfile.open(path, "r|bz2") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".xyz"):
                    content = archive.extractfile(member)
                    assert content is not None, "a regular file has content"
                    yield parse(content.read().decode(), f"{path}:{member.name}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}; download it again") from error


def parse(text: str, where: str) -> RawMolecule:
    """Parse a raw file: N, a line `gdb INDEX properties`, N lines `symbol x y z charge`, and lines that are ignored.

    Args:
        text: content of the file.
        where: name of the file, for the error text.

    Raises:
        DataError: the text has another format.
    """
    lines = text.splitlines()
    try:
        n_atoms, index = int(lines[0]), int(lines[1].split()[1])
        atoms = [line.split() for line in lines[2 : 2 + n_atoms]]
        numbers = [ATOMIC_NUMBERS[atom[0]] for atom in atoms]
        positions = [[_number(word) for word in atom[1:4]] for atom in atoms]
        molecule = RawMolecule(index, np.array(numbers, np.uint8), np.array(positions, np.float32))
    except (IndexError, KeyError, ValueError) as error:
        raise DataError(f"{where} is not a raw QM9 file: {type(error).__name__} {error}") from error
    if molecule.positions.shape != (n_atoms, 3) or not np.isfinite(molecule.positions).all():
        raise DataError(f"{where} announces {n_atoms} atoms; found positions of shape {molecule.positions.shape}")
    return molecule


def _number(word: str) -> float:
    return float(word.replace("*^", "e"))  # the notation of Mathematica: -8.4813*^-6


def _obtain(file: RemoteFile, out: Path, files: Path | None, report: ProgressCallback) -> Path:
    if files is None:
        return file.fetch(out, report)
    path = files / file.name
    if not path.is_file():
        raise DataError(f"no {file.name} in {files}; download it from {file.url}, or call without --files")
    file.verify(path)
    return path


def _write(path: Path, molecules: list[RawMolecule], parts: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as file:
        np.savez_compressed(
            file,
            index=np.array([m.index for m in molecules], np.int32),
            num_atoms=np.array([len(m.atomic_numbers) for m in molecules], np.uint8),
            atomic_numbers=np.concatenate([m.atomic_numbers for m in molecules]),
            positions=np.concatenate([m.positions for m in molecules]),
            split=parts,
            source=np.full(len(molecules), OFFICIAL, np.uint8),
        )
    return path
