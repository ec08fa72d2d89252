"""The conditions under which two rows may share a forward pass."""

from typing import Literal, NamedTuple

Lane = Literal["sample", "likelihood", "background"]
"""A class of service: the lanes share the device by weight."""

StepKind = Literal["adams", "path", "fine", "exact", "hutchinson"]
"""The work of one step.

"adams", "path" and "fine" move a row along its trajectory: by Adams' method, by Dormand-Prince, and by Dormand-Prince
in float64. "exact" and "hutchinson" evaluate the divergence along a finished trajectory.
"""


class BatchKey(NamedTuple):
    """A lane, a kind of step and a size class; rows with equal keys may share a forward pass."""

    lane: Lane
    kind: StepKind
    size: int

    @property
    def moves(self) -> bool:
        """True if the rows move along a trajectory and hold a slot on the device."""
        return self.kind in ("adams", "path", "fine")
