"""What comes of molecules that are generated, one by one and all together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from enflow.model.chem.molecule import Molecule, Molecules
from enflow.model.errors import SolverError
from enflow.model.flow.ode.solver_state import Status

Wanted = int | str | None
"""Of a molecule to generate: its size, its formula, or neither."""


@dataclass(frozen=True)
class Sample:
    """What came of one molecule; `molecule` is None where an atom flew beyond all bounds."""

    index: int
    molecule: Molecule | None
    status: Status
    nfe: int


def in_order(samples: Iterable[Sample]) -> Molecules:
    """The molecules by index, 0 to their number.

    Raises:
        SolverError: one of them is none.
    """
    found = {}
    for one in samples:
        if one.molecule is None:
            raise SolverError(f"an atom of molecule {one.index} flew beyond all bounds (solver: {one.status.name})")
        found[one.index] = one.molecule
    return Molecules(found[index] for index in range(len(found)))


def check(index: int, status: Status) -> None:
    """Raise where a path did not reach its end.

    Raises:
        SolverError: it did not.
    """
    if status != Status.SUCCESS:
        raise SolverError(
            f"molecule {index}: the solver stopped with {status.name}, expected SUCCESS; try other tolerances"
        )


class Latent(NamedTuple):
    """One molecule as a point: under the base, where `encode` takes it, or dequantized, where it begins."""

    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]


class LiftedMolecules(NamedTuple):
    """Molecules with the log-densities of their way from data into flow space, nats."""

    x: Float[Tensor, "B N S"]
    h: Float[Tensor, "B N F"]
    mask: Bool[Tensor, "B N"]
    log_q: Float[Tensor, " B"]
    """Of the dequantized features."""
    ladj: Float[Tensor, " B"]
    """Of ActNorm, from data on."""

    def rows(self) -> list[tuple[Latent, float, float]]:
        """Each molecule without its padding, with its log_q and ladj."""
        points = [Latent(x[real], h[real]) for x, h, real in zip(self.x, self.h, self.mask, strict=True)]
        return list(zip(points, self.log_q.tolist(), self.ladj.tolist(), strict=True))
