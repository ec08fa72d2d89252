"""What two rows must share to stand in one forward."""

from typing import Literal, NamedTuple

Lane = Literal["sample", "likelihood"]


StepKind = Literal["path", "fine", "exact", "hutchinson"]
"""What a row does in a step: it moves along its path, or along one that needs float64, or its divergence is taken."""


class BatchKey(NamedTuple):
    """What may share a forward: a lane, a kind of step, a size class."""

    lane: Lane
    kind: StepKind
    size: int

    @property
    def moves(self) -> bool:
        """Whether its rows move along a path, in slots."""
        return self.kind in ("path", "fine")
