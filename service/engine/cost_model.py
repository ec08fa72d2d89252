"""The number of rows that a step may hold, and the seconds that it takes. No torch here."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from enflow.service.engine.batch_key import BatchKey
from enflow.service.protocol.requests import DOUBLE_COST, EXACT_COST, PROBE_COST, TYPICAL_ATOMS

STAGES = 6
"""Evaluations of the velocity in a step of the engine: one attempt of Dormand-Prince, or six of Adams' method."""

QUADRATURE_NODES = 7
"""Nodes of one Gauss-Kronrod stretch of the likelihood's quadrature (`model.flow.ode.quadrature`)."""

GROW_AFTER = 200
"""Steps without an out-of-memory error after which a halved budget is doubled; twice as many before the next time."""

SHORT_STEP_OVERHEAD = 1 / 4
"""The largest part of a short step that may be spent on launching it."""

SMALL_STEPS = 52.0
"""The most steps of a molecule of middle size that a small request takes: with four refinements, one molecule of any
size at `standard` and of 26 atoms at `precise`, or six of middle size at `standard`."""

SMALL_REQUEST = SMALL_STEPS * STAGES * TYPICAL_ATOMS**2
"""The largest cost of a small request."""


@dataclass(frozen=True)
class CostTable:
    """The measured seconds of one evaluation of the velocity.

    Attributes:
        sizes: the size classes, in atoms, ascending; a molecule is padded to its class.
        seconds: for each size class the seconds per molecule in a full batch.
        overhead: seconds of an evaluation of one small molecule.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    overhead: float = 0.0

    @classmethod
    def profile(cls, evaluate: Callable[[int, int], None], sizes: Sequence[int], rows: Callable[[int], int]) -> Self:
        """Measure `evaluate(rows, size)` for every size class with a full batch.

        The fastest of three runs counts, since the first run allocates memory and other programs may use the machine.

        Args:
            evaluate: evaluates the velocity and returns when the device has finished.
            sizes: the size classes.
            rows: the rows of a full batch, by size class.
        """
        full = {size: rows(size) for size in sizes}
        best = {size: min(_seconds(evaluate, full[size], size) for _ in range(3)) for size in sizes}
        overhead = min(_seconds(evaluate, 1, sizes[0]) for _ in range(5))
        return cls(tuple(sizes), tuple(best[size] / full[size] for size in sizes), overhead)

    def size(self, n_atoms: int) -> int:
        """Return the size class of a molecule.

        Raises:
            ValueError: the molecule is larger than every class.
        """
        for size in self.sizes:
            if n_atoms <= size:
                return size
        raise ValueError(f"found {n_atoms} atoms, expected at most {self.sizes[-1]}")

    def evaluation(self, size: int) -> float:
        """Return the seconds per molecule of one evaluation in this size class."""
        return self.seconds[self.sizes.index(size)]

    def rows(self, size: int, overhead: float) -> int:
        """Return the number of molecules for which the launch takes the given part of an evaluation."""
        return max(1, int((1 / overhead - 1) * self.overhead / self.evaluation(size)))

    @property
    def rate(self) -> float:
        """Pairs of atoms times evaluations per second, for the middle size class."""
        middle = len(self.sizes) // 2
        return self.sizes[middle] ** 2 / self.seconds[middle]


@dataclass
class BatchBudget:
    """The rows that a step may hold and the cost of a row, by batch key.

    Attributes:
        pairs: the largest rows x size^2 of one forward pass.
        n_features: features per atom.
        costs: the seconds of an evaluation, by size class.
    """

    pairs: int
    n_features: int
    costs: CostTable

    def __post_init__(self) -> None:
        self._full_pairs, self._steps, self._grow_after = self.pairs, 0, GROW_AFTER

    def halve(self) -> None:
        """Halve the budget, after a step that did not fit into memory."""
        self.pairs = max(1, self.pairs // 2)
        self._steps = 0

    def record_success(self) -> None:
        """Record a step that did fit; after enough of them double a budget that was halved."""
        self._steps += 1
        if self.pairs < self._full_pairs and self._steps >= self._grow_after:
            self.pairs = min(2 * self.pairs, self._full_pairs)
            self._steps, self._grow_after = 0, 2 * self._grow_after

    def max_rows(self, key: BatchKey) -> int:
        """Return the largest number of rows in a step."""
        return self._forward_rows(key.size) if key.moves else max(1, self.values(key) // QUADRATURE_NODES)

    def short_step_rows(self, key: BatchKey) -> int:
        """Return the number of rows in a step that others wait for: the fewest that keep the overhead acceptable."""
        rows = self.max_rows(key)
        return min(rows, self.costs.rows(key.size, SHORT_STEP_OVERHEAD)) if key.moves else rows

    def values(self, key: BatchKey) -> int:
        """Return the number of divergence values that take as long as an attempted step of the solver."""
        return max(1, int(STAGES * self._forward_rows(key.size) / self._evaluations(key)))

    def step_cost(self, key: BatchKey) -> float:
        """Return the seconds of a full step of divergence values, which its rows share; a moving row has its own."""
        return math.inf if key.moves else self.cost(key, self.values(key))

    def cost(self, key: BatchKey, values: int = 1) -> float:
        """Return the seconds of a row's next step, or of the given number of divergence values."""
        return values * self._evaluations(key) * self.costs.evaluation(key.size)

    def _forward_rows(self, size: int) -> int:
        return max(1, self.pairs // size**2)

    def _evaluations(self, key: BatchKey) -> float:
        evaluations = {
            "adams": STAGES,
            "path": STAGES,
            "fine": DOUBLE_COST * STAGES,
            "hutchinson": PROBE_COST,
            "exact": EXACT_COST * (3 + self.n_features) * key.size,
        }
        return evaluations[key.kind]


def _seconds(evaluate: Callable[[int, int], None], rows: int, size: int) -> float:
    start = time.perf_counter()
    evaluate(rows, size)
    return time.perf_counter() - start
