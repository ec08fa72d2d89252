"""How much one step may hold, and what it costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from enflow.model.flow.ode.quadrature import NODES
from enflow.service.engine.batch_key import BatchKey


@dataclass(frozen=True)
class CostTable:
    """Seconds of one evaluation of the velocity per molecule, for molecules padded to each of `sizes`, in a full step;
    and the seconds that an evaluation takes however few molecules there are."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    overhead: float = 0.0

    @classmethod
    def profile(cls, evaluate: Callable[[int, int], None], sizes: Sequence[int], room: Callable[[int], int]) -> Self:
        """Time `evaluate(rows, size)` at every size, as many rows as a step would hold; it must wait for the device.

        The best of three: the first pays for allocation, and others may use the machine.
        """
        rows = {size: room(size) for size in sizes}
        best = {size: min(_seconds(evaluate, rows[size], size) for _ in range(3)) for size in sizes}
        overhead = min(_seconds(evaluate, 1, sizes[0]) for _ in range(5))
        return cls(tuple(sizes), tuple(best[size] / rows[size] for size in sizes), overhead)

    def size(self, n_atoms: int) -> int:
        """The size class of a molecule.

        Raises:
            ValueError: larger than any class.
        """
        for size in self.sizes:
            if n_atoms <= size:
                return size
        raise ValueError(f"found {n_atoms} atoms, expected at most {self.sizes[-1]}")

    def evaluation(self, size: int) -> float:
        """Seconds of one evaluation of a molecule of this class."""
        return self.seconds[self.sizes.index(size)]

    def rows(self, size: int, share: float) -> int:
        """How many molecules make the overhead that share of their evaluation."""
        return max(1, int((1 / share - 1) * self.overhead / self.evaluation(size)))

    @property
    def rate(self) -> float:
        """Pairs of atoms times evaluations in a second, at the middle of the classes."""
        middle = len(self.sizes) // 2
        return self.sizes[middle] ** 2 / self.seconds[middle]


ATTEMPT = 6
"""Evaluations of one attempted step."""

DOUBLE = 3.0
"""Evaluations in single precision that one in double costs: half the numbers to a register, and MKL's product."""

OVERHEAD = 1 / 4
"""The part of a brief step that goes to launching it."""

EXACT, PROBE = 0.7, 3.0
"""Evaluations that a direction of the exact trace, and a probe, cost (measured: 78 for 141; 2.5 to 4.7)."""


@dataclass
class BatchBudget:
    """Room and cost of a step, by group.

    Args:
        pairs: rows x size^2 of one forward.
        n_features: features per atom.
        costs: seconds of an evaluation, by size.
    """

    pairs: int
    n_features: int
    costs: CostTable

    def halve(self) -> None:
        """Remember that a step was too large for the memory."""
        self.pairs = max(1, self.pairs // 2)

    def room(self, group: BatchKey) -> int:
        """How many rows a step may take."""
        return self.rows(group.size) if group.moves else max(1, self.values(group) // len(NODES))

    def brief(self, group: BatchKey) -> int:
        """How many rows a step may take that others wait for: as few as waste no more than a quarter of it."""
        return min(self.room(group), self.costs.rows(group.size, OVERHEAD)) if group.moves else self.room(group)

    def rows(self, size: int) -> int:
        """How many molecules one forward may hold."""
        return max(1, self.pairs // size**2)

    def values(self, group: BatchKey) -> int:
        """How many values of the divergence one step may take: as many as hold the device for an attempted step."""
        return max(1, int(ATTEMPT * self.rows(group.size) / self._evaluations(group)))

    def cost(self, group: BatchKey, values: int = 1) -> float:
        """Seconds of a row's next step; of a divergence, that of so many values."""
        return values * self._evaluations(group) * self.costs.evaluation(group.size)

    def _evaluations(self, group: BatchKey) -> float:
        directions = {
            "path": ATTEMPT,
            "fine": DOUBLE * ATTEMPT,
            "hutchinson": PROBE,
            "exact": EXACT * (3 + self.n_features) * group.size,
        }
        return directions[group.kind]


def _seconds(evaluate: Callable[[int, int], None], rows: int, size: int) -> float:
    start = time.perf_counter()
    evaluate(rows, size)
    return time.perf_counter() - start
