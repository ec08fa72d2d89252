"""Points of flow space and generated molecules, one by one and as a batch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from enflow.model.chem.molecule import Molecule, Molecules
from enflow.model.errors import SolverError
from enflow.model.flow.ode.solver_state import Status

SizeOrFormula = int | str | None
"""A condition on one molecule to generate: a number of atoms, a formula, or None for a size drawn from p(N)."""


@dataclass(frozen=True)
class Sample:
    """The result for one molecule.

    Attributes:
        index: the index of the molecule.
        molecule: the molecule; None if a position is not finite or far outside the range of molecules.
        status: the status of the solver.
        nfe: evaluations of the velocity.
    """

    index: int
    molecule: Molecule | None
    status: Status
    nfe: int

    def named(self, index: int, seed: int) -> "Sample":
        """Return the sample with its index, and with index and seed among the properties of its molecule."""
        molecule = self.molecule
        if molecule is not None:
            molecule = molecule.with_properties(seed=seed, index=index)
        return replace(self, index=index, molecule=molecule)


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
    """One molecule as a point of flow space, without padding: a latent at t = 0, or dequantized at t = 1."""

    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]


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
