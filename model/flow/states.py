"""Points of flow space and generated molecules, one by one and as a batch."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from enflow.model.chem.molecule import Molecule, Molecules
from enflow.model.config import MAX_RETURN_ERROR
from enflow.model.errors import ConfigError, InverseWarning, SolverError
from enflow.model.flow.ode.solver_state import Status

SizeOrFormula = int | str | tuple[int, int] | None
"""A condition on one molecule to generate: a number of atoms, a formula, the least and the largest number of a size
drawn from p(N) between them, or None for a size drawn from p(N)."""

OnMismatch = Literal["warn", "raise", "ignore"]
"""The reaction to a molecule that does not come back from its own latent."""


@dataclass(frozen=True)
class Sample:
    """The result for one molecule.

    Attributes:
        index: the index of the molecule.
        molecule: the molecule; None if a position is not finite or far outside the range of molecules.
        status: the status of the solver.
        nfe: evaluations of the velocity.
        refinements: the number of refinements that were made.
    """

    index: int
    molecule: Molecule | None
    status: Status
    nfe: int
    refinements: int = 0

    def counted(self) -> "Sample":
        """Return the sample with status and nfe among the properties of its molecule."""
        molecule = self.molecule
        if molecule is not None:
            molecule = molecule.with_properties(status=self.status.name, nfe=self.nfe)
        return replace(self, molecule=molecule)

    def named(self, index: int, seed: int) -> "Sample":
        """Return the sample with its index; its molecule has index, seed and refinements, if any, as properties."""
        molecule = self.molecule
        if molecule is not None:
            repeated = {"refinements": self.refinements} if self.refinements else {}
            molecule = molecule.with_properties(seed=seed, index=index, **repeated)
        return replace(self, index=index, molecule=molecule)


@dataclass(frozen=True)
class Perturbation:
    """A molecule that is to be noised; see `FlowComponents.noised`."""

    molecule: Molecule
    t: float
    seed: int
    index: int
    refinement: int = 0
    temperature: float = 1.0


def molecules_in_order(samples: Iterable[Sample]) -> Molecules:
    """Return the molecules in the order of their indices, which are 0, 1, 2, ...

    Raises:
        SolverError: a sample has no molecule.
    """
    found = {}
    for one in samples:
        if one.molecule is None:
            raise SolverError(
                f"molecule {one.index + 1}: found an atom beyond all bounds, expected finite positions "
                f"(solver: {one.status.name})"
            )
        found[one.index] = one.molecule
    return Molecules(found[index] for index in range(len(found)))


def return_error(molecule: Molecule, parent: Molecule) -> tuple[float, int]:
    """Return the largest displacement of an atom from the parent, angstrom, and the number of other elements."""
    moved = molecule.centred().positions - parent.centred().positions
    return float(np.linalg.norm(moved, axis=1).max()), int((molecule.atomic_numbers != parent.atomic_numbers).sum())


def compared(index: int, molecule: Molecule, parent: Molecule, on_mismatch: OnMismatch) -> Molecule:
    """Return the molecule with the property "parent_distance", and report one that did not come back.

    Raises:
        SolverError: the molecule is not its parent, and `on_mismatch` is "raise".
        ConfigError: `on_mismatch` is unknown.
    """
    if on_mismatch not in get_args(OnMismatch):
        raise ConfigError(f"found on_mismatch {on_mismatch!r}, expected one of {', '.join(get_args(OnMismatch))}")
    distance, changed = return_error(molecule, parent)
    if changed or distance > MAX_RETURN_ERROR:
        elements = f" and {changed} other elements" if changed else ""
        found = (
            f"molecule {index + 1}: found a distance of {distance:.2g} angstrom{elements} after encode and decode, "
            f"expected {MAX_RETURN_ERROR:g} at most; this molecule needs a smaller tolerance, or none is small enough"
        )
        if on_mismatch == "raise":
            raise SolverError(found)
        if on_mismatch == "warn":
            warnings.warn(found, InverseWarning, stacklevel=4)  # the line that calls `decode`
    return molecule.with_properties(parent_distance=distance)


def check_success(index: int, status: Status) -> None:
    """Check that the path of a molecule reached its end.

    Raises:
        SolverError: the solver stopped before the end.
    """
    if status != Status.SUCCESS:
        raise SolverError(
            f"molecule {index + 1}: the solver stopped with {status.name}, expected SUCCESS; try other tolerances"
        )


class Latent(NamedTuple):
    """One molecule as a point of flow space, without padding.

    At t = 0 it is a latent, at t = 1 a dequantized molecule, and between them a molecule with noise.
    """

    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]


class EncodedLatent(Latent):
    """The latent of a molecule together with the molecule, so that `decode` can tell how exactly it comes back.

    A changed copy, such as that of `_replace`, has no parent.
    """

    parent: Molecule | None = None

    def __new__(  # noqa: PYI034 - beartype knows no Self outside its own classes
        cls, x: Tensor, h: Tensor, parent: Molecule | None = None
    ) -> "EncodedLatent":
        self = super().__new__(cls, x, h)
        self.parent = parent
        return self


def compared_with_parents(molecules: Molecules, latents: Sequence[Latent], on_mismatch: OnMismatch) -> Molecules:
    """Return decoded molecules; those of an `EncodedLatent` are compared with its molecule, see `compared`."""
    found = list(molecules)
    for index, latent in enumerate(latents):
        if parent := getattr(latent, "parent", None):
            found[index] = compared(index, found[index], parent, on_mismatch)
    return Molecules(found)


class DequantizedMolecules(NamedTuple):
    """A padded batch of molecules in flow space at t = 1, with the log-densities of the map from data, nats."""

    x: Float[Tensor, "B N S"]
    h: Float[Tensor, "B N F"]
    mask: Bool[Tensor, "B N"]
    log_q: Float[Tensor, " B"]
    """log q of the dequantized features."""
    ladj: Float[Tensor, " B"]
    """log |det| of ActNorm, from data to flow space."""

    def rows(self) -> list[tuple[Latent, float, float]]:
        """Return (point without padding, log_q, ladj) of each molecule."""
        points = [Latent(x[real], h[real]) for x, h, real in zip(self.x, self.h, self.mask, strict=True)]
        return list(zip(points, self.log_q.tolist(), self.ladj.tolist(), strict=True))
