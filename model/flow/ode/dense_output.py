"""Dense output: the state at any time within the accepted steps of a solver."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Interpolant(NamedTuple):
    """A quartic polynomial for one step of every row.

    With theta = (t - t0) / (t1 - t0) in [0, 1],
    y = y0 + theta (d + (1 - theta) (a - d + theta (2 d - a - b + (1 - theta) q))),
    where d = y1 - y0, a = (t1 - t0) f(t0, y0) and b = (t1 - t0) f(t1, y1): the cubic Hermite polynomial and a quartic
    term q that makes it fourth order (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.6).
    """

    t0: Float[Tensor, " B"]
    t1: Float[Tensor, " B"]
    y0: Float[Tensor, "B N D"]
    y1: Float[Tensor, "B N D"]
    slope0: Float[Tensor, "B N D"]
    """a: the derivative at t0 times the step."""
    slope1: Float[Tensor, "B N D"]
    """b: the derivative at t1 times the step."""
    quartic: Float[Tensor, "B N D"]
    """q: the quartic term."""

    def at(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B N D"]:
        """Return the state at one time per row; a time outside the step extrapolates."""
        theta = ((t - self.t0) / (self.t1 - self.t0))[:, None, None]
        rise = self.y1 - self.y0
        skew = self.slope0 - rise
        cubic = rise - self.slope1 - skew
        return self.y0 + theta * (rise + (1 - theta) * (skew + theta * (cubic + (1 - theta) * self.quartic)))

    def slope(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B N D"]:
        """Return the derivative of the state by t at one time per row."""
        theta = ((t - self.t0) / (self.t1 - self.t0))[:, None, None]
        rise = self.y1 - self.y0
        skew = self.slope0 - rise
        inner = rise - self.slope1 - skew + (1 - theta) * self.quartic
        middle = skew + theta * inner
        outer = rise + (1 - theta) * middle
        change = (1 - theta) * (inner - theta * self.quartic) - middle
        return (outer + theta * change) / (self.t1 - self.t0)[:, None, None]

    def row(self, row: int, n_atoms: int) -> "Interpolant":
        """Return one row without its padding, as a batch of one."""
        return Interpolant(*(f[row : row + 1] if f.ndim == 1 else f[row : row + 1, :n_atoms] for f in self))


class Trajectory:
    """The accepted steps of a batch of rows, which have their own times and numbers of steps.

    Args:
        attempts: the pairs (accepted, interpolant) of the attempted steps, in order; rejected ones are left out.
    """

    def __init__(self, attempts: Sequence[tuple[Bool[Tensor, " B"], Interpolant]]) -> None:
        self.accepted = torch.stack([accepted for accepted, _ in attempts])  # (S, B)
        self.steps = Interpolant(*(torch.stack(fields) for fields in zip(*(step for _, step in attempts), strict=True)))

    @property
    def n_rows(self) -> int:
        """The number of rows, B."""
        return self.accepted.shape[1]

    def step_ends(self, row: int) -> list[float]:
        """Return the times at which the accepted steps of a row end."""
        ends: list[float] = self.steps.t1[self.accepted[:, row], row].tolist()
        return ends

    def at(self, rows: Int[Tensor, " M"], t: Float[Tensor, " M"]) -> Float[Tensor, "M N D"]:
        """Return the state of row `rows[m]` at time `t[m]`; see `steps_at`."""
        return self.steps_at(rows, t).at(t)

    def steps_at(self, rows: Int[Tensor, " M"], t: Float[Tensor, " M"]) -> Interpolant:
        """Return the step of row `rows[m]` that contains time `t[m]`.

        Args:
            rows: indices of rows; one may occur several times.
            t: one time per index.
        """
        begin, end, accepted = self.steps.t0[:, rows], self.steps.t1[:, rows], self.accepted[:, rows]  # (S, M)
        reached = accepted & ((end - t) * (end - begin).sign() >= 0)
        # The first step that reaches t. By rounding, t may lie beyond the last step.
        last = len(accepted) - 1 - accepted.flip(0).int().argmax(0)
        chosen = torch.where(reached.any(0), reached.int().argmax(0), last)
        return Interpolant(*(field[chosen, rows] for field in self.steps))
