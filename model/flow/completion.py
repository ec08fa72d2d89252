"""Completions: molecules of which some atoms are given, and the frame of the given atoms."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from enflow.model.chem.connectivity import in_one_piece
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.model.flow.states import Sample


@dataclass(frozen=True)
class Completion:
    """A molecule of which some atoms are given.

    Attributes:
        molecule: the whole molecule, angstrom.
        given: the places of the given atoms in it, from 0; one or more, not all.
    """

    molecule: Molecule
    given: tuple[int, ...]

    def __post_init__(self) -> None:
        n_atoms, given = self.molecule.n_atoms, set(self.given)
        if not 0 < len(given) == len(self.given) < n_atoms or not given <= set(range(n_atoms)):
            raise StructureError(f"found the given atoms {[i + 1 for i in self.given]}, expected some of {n_atoms}")

    @property
    def ordered(self) -> Molecule:
        """The molecule with the given atoms first."""
        order = [*self.given, *(i for i in range(self.molecule.n_atoms) if i not in self.given)]
        return Molecule(self.molecule.atomic_numbers[order], self.molecule.positions[order])


def relative_to_fragment(
    x: Float[Tensor, "B N 3"], h: Float[Tensor, "B N F"]
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N K"]]:
    """Return positions relative to the mean of the fragment and features without the flag; zeros for the fragment."""
    flag = h[..., -1:]
    middle = (x * flag).sum(-2, keepdim=True) / flag.sum(-2, keepdim=True)
    return (1.0 - flag) * (x - middle), (1.0 - flag) * h[..., :-1]


def placed(positions: Float64[np.ndarray, "N 3"], given: Float64[np.ndarray, "M 3"]) -> Float64[np.ndarray, "N 3"]:
    """Return the positions of a molecule, moved so that its first atoms are the fragment as it was given, exactly."""
    moved: Float64[np.ndarray, "N 3"] = positions + (given.mean(axis=0) - positions[: len(given)].mean(axis=0))
    moved[: len(given)] = given
    return moved


def completion_of(molecule: Molecule, given: Molecule) -> Completion:
    """Return a decoded molecule as a completion of its fragment, which comes first."""
    found = Molecule(molecule.atomic_numbers, placed(molecule.positions, given.positions))
    return Completion(found, tuple(range(given.n_atoms)))


def grown(sample: Sample, given: Molecule) -> Sample:
    """Return a sample with its molecule where its fragment is, and with two more properties.

    "fragment_atoms" is the number of the fragment's atoms; "connected" says that all atoms are in one piece.
    """
    molecule = sample.molecule
    if molecule is None:
        return sample
    found = Molecule(molecule.atomic_numbers, placed(molecule.positions, given.positions), "", molecule.properties)
    found = found.with_properties(fragment_atoms=given.n_atoms, connected=in_one_piece(found))
    return replace(sample, molecule=found)
