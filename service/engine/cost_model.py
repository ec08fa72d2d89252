"""How much one step may hold, and what it costs."""

from dataclasses import dataclass

from enflow.model.flow.ode.quadrature import NODES
from enflow.service.cost import CostTable
from enflow.service.engine.requests import Group

ATTEMPT = 6
"""Evaluations of one attempted step."""

DOUBLE = 3.0
"""Evaluations in single precision that one in double costs: half the numbers to a register, and MKL's product."""

OVERHEAD = 1 / 4
"""The part of a brief step that goes to launching it."""

EXACT, PROBE = 0.7, 3.0
"""Evaluations that a direction of the exact trace, and a probe, cost (measured: 78 for 141; 2.5 to 4.7)."""


@dataclass
class Budget:
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

    def room(self, group: Group) -> int:
        """How many rows a step may take."""
        return self.rows(group.size) if group.moves else max(1, self.values(group) // len(NODES))

    def brief(self, group: Group) -> int:
        """How many rows a step may take that others wait for: as few as waste no more than a quarter of it."""
        return min(self.room(group), self.costs.rows(group.size, OVERHEAD)) if group.moves else self.room(group)

    def rows(self, size: int) -> int:
        """How many molecules one forward may hold."""
        return max(1, self.pairs // size**2)

    def values(self, group: Group) -> int:
        """How many values of the divergence one step may take: as many as hold the device for an attempted step."""
        return max(1, int(ATTEMPT * self.rows(group.size) / self._evaluations(group)))

    def cost(self, group: Group, values: int = 1) -> float:
        """Seconds of a row's next step; of a divergence, that of so many values."""
        return values * self._evaluations(group) * self.costs.evaluation(group.size)

    def _evaluations(self, group: Group) -> float:
        directions = {
            "path": ATTEMPT,
            "fine": DOUBLE * ATTEMPT,
            "hutchinson": PROBE,
            "exact": EXACT * (3 + self.n_features) * group.size,
        }
        return directions[group.kind]
