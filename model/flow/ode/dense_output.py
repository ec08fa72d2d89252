"""Dense output: the state anywhere within the steps that an integrator took."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Interpolant(NamedTuple):
    """The quartic through one step of every row.

    With theta = (t - t0) / (t1 - t0) in [0, 1],
    y = y0 + theta (d + (1 - theta) (a - d + theta (2 d - a - b + (1 - theta) bump))),
    where d = y1 - y0, a = (t1 - t0) f(t0, y0) and b = (t1 - t0) f(t1, y1): Hermite's cubic, and a quartic term that
    makes it fourth order (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.6).
    """

    t0: Float[Tensor, " B"]
    t1: Float[Tensor, " B"]
    y0: Float[Tensor, "B N D"]
    y1: Float[Tensor, "B N D"]
    slope0: Float[Tensor, "B N D"]
    """a: the derivative at t0 times the step."""
    slope1: Float[Tensor, "B N D"]
    """b: the derivative at t1 times the step."""
    bump: Float[Tensor, "B N D"]

    def at(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B N D"]:
        """The state at one time per row; times outside the step extrapolate."""
        theta = ((t - self.t0) / (self.t1 - self.t0))[:, None, None]
        rise = self.y1 - self.y0
        skew = self.slope0 - rise
        cubic = rise - self.slope1 - skew
        return self.y0 + theta * (rise + (1 - theta) * (skew + theta * (cubic + (1 - theta) * self.bump)))

    def row(self, row: int, n_atoms: int) -> "Interpolant":
        """One row, without its padding."""
        return Interpolant(*(f[row : row + 1] if f.ndim == 1 else f[row : row + 1, :n_atoms] for f in self))


class Trajectory:
    """The accepted steps of some rows, each with times and a number of steps of its own.

    Args:
        pieces: (accepted, interpolant) of attempt after attempt; those not accepted are passed over.
    """

    def __init__(self, pieces: Sequence[tuple[Bool[Tensor, " B"], Interpolant]]) -> None:
        self.accepted = torch.stack([accepted for accepted, _ in pieces])  # (S, B)
        self.pieces = Interpolant(*(torch.stack(fields) for fields in zip(*(p for _, p in pieces), strict=True)))

    @property
    def n_rows(self) -> int:
        """Number of rows, B."""
        return self.accepted.shape[1]

    def steps_of(self, row: int) -> list[float]:
        """Where the accepted steps of a row end."""
        ends: list[float] = self.pieces.t1[self.accepted[:, row], row].tolist()
        return ends

    def of(self, rows: Int[Tensor, " M"], t: Float[Tensor, " M"]) -> Float[Tensor, "M N D"]:
        """The state of these rows, any of them any number of times, each at a time of its own."""
        begin, end, accepted = self.pieces.t0[:, rows], self.pieces.t1[:, rows], self.accepted[:, rows]  # (S, M)
        reached = accepted & ((end - t) * (end - begin).sign() >= 0)
        # The first piece that reaches t; by rounding t may lie past the last one.
        last = len(accepted) - 1 - accepted.flip(0).int().argmax(0)
        piece = torch.where(reached.any(0), reached.int().argmax(0), last)
        return Interpolant(*(field[piece, rows] for field in self.pieces)).at(t)
