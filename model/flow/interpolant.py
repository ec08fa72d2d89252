"""Dense output: the state anywhere within the steps that an integrator took."""

from collections.abc import Sequence
from typing import NamedTuple, Self

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

    def select(self, rows: Int[Tensor, " R"]) -> "Interpolant":
        """These rows only."""
        return Interpolant(*(field.index_select(0, rows) for field in self))


class Trajectory:
    """The accepted steps of some rows from their start to where they are now.

    Rejected attempts may be among the pieces, flagged; every row has its own times and its own number of steps.
    """

    def __init__(self, pieces: Sequence[tuple[Bool[Tensor, " B"], Interpolant]]) -> None:
        self.accepted = torch.stack([accepted for accepted, _ in pieces])
        """(S, B): which pieces belong to which row."""
        self.pieces = Interpolant(*(torch.stack(fields) for fields in zip(*(p for _, p in pieces), strict=True)))

    def select(self, rows: Int[Tensor, " R"]) -> Self:
        """These rows only."""
        chosen = object.__new__(type(self))
        chosen.accepted = self.accepted[:, rows]
        chosen.pieces = Interpolant(*(field[:, rows] for field in self.pieces))
        return chosen

    def at(self, t: Float[Tensor, "B K"]) -> Float[Tensor, "B K N D"]:
        """The states at K times per row."""
        past = torch.where(self.pieces.t1 >= self.pieces.t0, 1.0, -1.0)[..., None]
        covers = self.accepted[..., None] & (past * (self.pieces.t1[..., None] - t) >= 0)  # (S, B, K)
        # argmax of booleans is the first that holds; a time past the end by rounding belongs to the last accepted.
        last = self.accepted.shape[0] - 1 - self.accepted.flip(0).int().argmax(0)
        piece = torch.where(covers.any(0), covers.int().argmax(0), last[:, None])  # (B, K)
        row = torch.arange(t.shape[0], device=t.device)[:, None].expand_as(piece)
        flat = Interpolant(*(field[piece, row].flatten(0, 1) for field in self.pieces))
        return flat.at(t.flatten()).reshape(*t.shape, *flat.y0.shape[1:])
