"""One molecule: atomic numbers, positions, a name and properties."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from enflow.model.chem.elements import SYMBOLS, Vocabulary
from enflow.model.errors import StructureError, VocabularyError

NEAREST_ATOMS = 0.1
"""Angstrom; atoms nearer than this are taken as one point. The closest pair of QM9 is 0.959 angstrom apart."""

FARTHEST_COORDINATE = 1e6
"""Angstrom; beyond it a double no longer resolves picometres, and squares may overflow."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Molecule:
    """A molecule: atoms in space, without bonds.

    Args:
        atomic_numbers: (N,) integers 1 to 118, N at least 1.
        positions: (N, 3) angstrom, finite.
        name: free text, such as the title in a file.
        properties: further facts by name, such as the data items of an SDF or the info of an extended XYZ. Readers
            fill them in and writers write them back. They are no part of equality. NumPy scalars become Python's.

    Raises:
        StructureError: an argument is not of that shape or range.
    """

    atomic_numbers: Int64[np.ndarray, " N"]
    positions: Float64[np.ndarray, "N 3"]
    name: str
    properties: Mapping[str, object]

    def __init__(
        self,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        name: str = "",
        properties: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "atomic_numbers", _checked_numbers(atomic_numbers))
        set_field(self, "positions", _checked_positions(positions, self.n_atoms))
        set_field(self, "name", name)
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in properties.items()}
        set_field(self, "properties", plain)

    @property
    def n_atoms(self) -> int:
        """Number of atoms, N."""
        return len(self.atomic_numbers)

    @property
    def symbols(self) -> list[str]:
        """The symbol of each atom."""
        return [SYMBOLS[z - 1] for z in self.atomic_numbers]

    @property
    def formula(self) -> str:
        """The formula in Hill order: carbon, hydrogen, then the other elements in alphabetical order."""
        counts = Counter(self.symbols)
        carbon_first = ["C", "H"] if "C" in counts else []
        order = carbon_first + sorted(set(counts) - set(carbon_first))
        return "".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in order if counts[s])

    def centred(self) -> "Molecule":
        """Return the molecule with the mean of its positions at the origin."""
        positions = self.positions - self.positions.mean(axis=0)
        return Molecule(self.atomic_numbers, positions, self.name, self.properties)

    def with_properties(self, **properties: object) -> "Molecule":
        """Return the molecule with further properties."""
        return Molecule(self.atomic_numbers, self.positions, self.name, {**self.properties, **properties})

    def to_rdkit(self) -> Any:
        """Return an RDKit molecule with inferred bonds; see `interop.to_rdkit`."""
        return _interop().to_rdkit(self)

    @staticmethod
    def from_rdkit(mol: Any) -> "Molecule":
        """Return the atoms of an RDKit molecule at the positions of its first conformer; see `interop.from_rdkit`."""
        return _interop().from_rdkit(mol)  # type: ignore[no-any-return]

    def to_ase(self) -> Any:
        """Return `ase.Atoms`; see `interop.to_ase`."""
        return _interop().to_ase(self)

    @staticmethod
    def from_ase(atoms: Any) -> "Molecule":
        """Return `ase.Atoms` as a molecule; see `interop.from_ase`."""
        return _interop().from_ase(atoms)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Molecule):
            return NotImplemented
        return np.array_equal(self.atomic_numbers, other.atomic_numbers) and np.array_equal(
            self.positions, other.positions
        )

    def __hash__(self) -> int:
        return hash((self.atomic_numbers.tobytes(), self.positions.tobytes()))

    def __repr__(self) -> str:
        return f"Molecule({self.formula}, n_atoms={self.n_atoms}{f', name={self.name!r}' if self.name else ''})"

    def _repr_html_(self) -> str:
        """Return the molecule as a notebook shows it."""
        return str(_notebook().molecule_html(self))


# Both import this module, and RDKit, which takes a while.
def _interop() -> Any:
    return import_module("enflow.model.chem.interop")


def _notebook() -> Any:
    return import_module("enflow.model.chem.notebook")


class Molecules(list[Molecule]):
    """A list of molecules that a notebook shows side by side: the first ones interactive, the others as drawings."""

    def _repr_html_(self) -> str:
        """Return the molecules as a notebook shows them."""
        return str(_notebook().molecules_html(self))


MoleculeLike = Any
"""A `Molecule`, an RDKit molecule with a conformer, or `ase.Atoms`."""


def as_molecules(found: MoleculeLike | Iterable[MoleculeLike]) -> list[Molecule]:
    """Return one molecule, or several, of Enflow, RDKit or ASE as a list of molecules of Enflow.

    Raises:
        StructureError: an object is none of these, or cannot be used; the message has its place, counted from 1.
    """
    several = isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping)
    if isinstance(found, Molecule) or _package(found) or not several:
        return [_as_molecule(found, "")]
    return [_as_molecule(each, f"molecule {place}: ") for place, each in enumerate(found, start=1)]


def _as_molecule(found: Any, where: str) -> Molecule:
    if isinstance(found, Molecule):
        return found
    try:
        if _package(found) == "rdkit":
            return Molecule.from_rdkit(found)
        if _package(found) == "ase":
            return Molecule.from_ase(found)
    except StructureError as error:
        raise StructureError(f"{where}{error.message}") from None
    expected = "an enflow.Molecule, an RDKit molecule with a conformer or ase.Atoms, or a list of them"
    raise StructureError(f"{where}found a {type(found).__name__}, expected {expected}")


def _package(found: object) -> str:
    """Return "rdkit" or "ase" for an object of these packages, without importing them; else an empty text."""
    packages = {each.__module__.partition(".")[0] for each in type(found).__mro__}
    return next((name for name in ("rdkit", "ase") if name in packages), "")


def check_vocabulary(molecule: Molecule, vocabulary: Vocabulary, where: str = "") -> None:
    """Raise unless the vocabulary covers the molecule.

    Args:
        molecule: the molecule.
        vocabulary: the elements and the largest size that are known.
        where: the beginning of the message, such as "molecule 2: ".

    Raises:
        VocabularyError: an element is not in the vocabulary, or there are too many atoms.
    """
    if molecule.n_atoms > vocabulary.max_atoms:
        raise VocabularyError(
            f"{where}found {molecule.n_atoms} atoms, expected at most {vocabulary.max_atoms} ({vocabulary.name})",
            name=molecule.name,
        )
    known_numbers = set(vocabulary.atomic_numbers)
    atom = next((i for i, number in enumerate(molecule.atomic_numbers.tolist()) if number not in known_numbers), None)
    if atom is not None:
        known = ", ".join(vocabulary.symbols)
        raise VocabularyError(
            f"{where}found {molecule.symbols[atom]} as atom {atom + 1}, expected one of {known} ({vocabulary.name})",
            name=molecule.name,
        )


def check_apart(molecule: Molecule) -> None:
    """Raise if two atoms stand at one point. A sample of a model may have that, a structure from a file must not.

    Raises:
        StructureError: two atoms are nearer than `NEAREST_ATOMS`.
    """
    positions = molecule.positions
    # Sorted along x, an atom can coincide only with the next few; a large structure needs no N x N matrix.
    order = np.argsort(positions[:, 0], kind="stable")
    along = positions[order]
    reach = np.searchsorted(along[:, 0], along[:, 0] + NEAREST_ATOMS) - np.arange(len(along))
    for offset in range(1, int(reach.max())):
        distance = np.linalg.norm(along[offset:] - along[:-offset], axis=1)
        nearest = int(np.argmin(distance))
        if distance[nearest] < NEAREST_ATOMS:
            i, j = sorted((int(order[nearest]) + 1, int(order[nearest + offset]) + 1))
            raise StructureError(
                f"found atoms {i} and {j} at a distance of {distance[nearest]:.3g} angstrom, "
                f"expected at least {NEAREST_ATOMS:g}"
            )


def _checked_numbers(atomic_numbers: ArrayLike) -> Int64[np.ndarray, " N"]:
    found = np.array(atomic_numbers)
    if found.ndim != 1 or not len(found):
        raise StructureError(f"found atomic numbers of shape {found.shape}, expected (N,) with at least one atom")
    if found.dtype.kind not in "iu":
        raise StructureError(f"found atomic numbers of type {found.dtype}, expected integers")
    outside = (found < 1) | (found > len(SYMBOLS))
    if outside.any():
        atom = int(np.argmax(outside))
        raise StructureError(f"found atomic number {found[atom]} of atom {atom + 1}, expected 1 to {len(SYMBOLS)}")
    return _read_only(found.astype(np.int64))


def _checked_positions(positions: ArrayLike, n_atoms: int) -> Float64[np.ndarray, "N 3"]:
    found = np.array(positions, dtype=np.float64)
    if found.shape != (n_atoms, 3):
        raise StructureError(f"found positions of shape {found.shape}, expected ({n_atoms}, 3)")
    outside = ~(np.abs(found) <= FARTHEST_COORDINATE)  # a NaN compares false
    if outside.any():
        atom, axis = np.argwhere(outside)[0]
        raise StructureError(
            f"found {found[atom, axis]:.6g} as {'xyz'[axis]} of atom {atom + 1}, "
            f"expected a finite number within {FARTHEST_COORDINATE:g} angstrom"
        )
    return _read_only(found)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
