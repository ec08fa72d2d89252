"""Systems of identical particles, written as molecules of one element, and their energies.

Both energies are those of the paper in units of the temperature: p(x) is proportional to exp(-E(x)). They are
invariant under rotation, reflection and permutation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from enflow.model.chem.elements import Vocabulary
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import VocabularyError

PARTICLE = 18
"""Atomic number of a particle in files: argon, which every program reads."""


def double_well(x: Any) -> Any:
    """Return the energy of DW4, the sum over pairs i < j of a u^4 + b u^2 with u = d - 4, a = 0.9, b = -4.

    Source: Köhler, Klein, Noé 2020.

    Args:
        x: (..., N, D), an array or a tensor.
    """
    u = _distances(x) - 4.0
    return (-4.0 * u**2 + 0.9 * u**4).sum(-1)


def lennard_jones(x: Any) -> Any:
    """Return the energy of LJ13, the sum over pairs i < j of d^-12 - 2 d^-6, plus a trap |x - mean|^2 / 2.

    Source: Köhler, Klein, Noé 2020, with the strength of Satorras et al. 2021.

    Args:
        x: (..., N, D), an array or a tensor.
    """
    inverse = _distances(x) ** -6
    trap = 0.5 * ((x - x.mean(-2)[..., None, :]) ** 2).sum((-2, -1))
    return (inverse**2 - 2.0 * inverse).sum(-1) + trap


def _distances(x: Any) -> Any:
    # Tensors keep torch's norm: another order of rounding would change the chains of a seed.
    i, j = np.triu_indices(x.shape[-2], k=1)
    apart = x[..., i, :] - x[..., j, :]
    return np.linalg.norm(apart, axis=-1) if isinstance(apart, np.ndarray) else apart.norm(dim=-1)


ENERGIES: Mapping[str, Callable[[Any], Any]] = {"dw4": double_well, "lj13": lennard_jones}
"""Name of the training data -> energy."""


@dataclass(frozen=True)
class ParticleSystem:
    """A system of a fixed number of identical particles.

    Attributes:
        name: name of the model.
        n_particles: number of particles.
        n_dims: dimensions of space; further coordinates are zero.
        data: name of the training data, which selects the energy.
    """

    name: str
    n_particles: int
    n_dims: int
    data: str = ""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary: one element, and the number of particles."""
        return Vocabulary(self.name, (PARTICLE,), self.n_particles)

    def molecule(
        self, positions: ArrayLike, name: str = "", properties: Mapping[str, object] | None = None
    ) -> Molecule:
        """Return particles at positions (N, 3) as a molecule.

        Raises:
            StructureError: a position is not finite or too large.
        """
        found = np.asarray(positions)
        return Molecule(np.full(len(found), PARTICLE), found, name, properties or {})

    def taken(self, structure: Molecule) -> Molecule:
        """Return a structure of any elements as particles of this system.

        Raises:
            VocabularyError: the number of particles differs, or a coordinate beyond the dimensions is not zero.
        """
        if structure.n_atoms != self.n_particles:
            raise VocabularyError(
                f"found {structure.n_atoms} particles, expected {self.n_particles} ({self.name})", name=structure.name
            )
        beyond = structure.positions[:, self.n_dims :]
        if beyond.any():
            row, axis = np.argwhere(beyond)[0]
            raise VocabularyError(
                f"found {beyond[row, axis]:.6g} as {'xyz'[self.n_dims + axis]} of particle {row + 1}, expected 0 "
                f"({self.name} has {self.n_dims} dimensions)",
                name=structure.name,
            )
        return self.molecule(structure.positions, structure.name, structure.properties)

    def coordinates(self, positions: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N D"]:
        """Return positions in the dimensions of the system."""
        return positions[:, : self.n_dims]

    def energy(self, positions: Float64[np.ndarray, "N 3"]) -> float | None:
        """Return the energy of particles at positions in units of the temperature; None where it is unknown."""
        known = ENERGIES.get(self.data)
        return float(known(self.coordinates(positions))) if known else None
