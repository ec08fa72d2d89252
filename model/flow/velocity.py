"""The type of a velocity, and its form for solvers and derivatives as a function of the packed state y = [x | h].

In shapes S is the number of dimensions of space, three by default, and D = S + F."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function (t (B,), x (B,N,3), h (B,N,F), mask (B,N) bool) -> (dx, dh), such as a dynamics."""


def pack(x: Float[Tensor, "*B N S"], h: Float[Tensor, "*B N F"]) -> Float[Tensor, "*B N D"]:
    """Return the packed state of positions and features."""
    return torch.cat([x, h], -1)


def unpack(y: Float[Tensor, "*B N D"], n_dims: int = 3) -> tuple[Float[Tensor, "*B N S"], Float[Tensor, "*B N F"]]:
    """Return positions and features as views of a packed state."""
    return y[..., :n_dims], y[..., n_dims:]


def packed(
    velocity: Velocity, t: Float[Tensor, " B"], y: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], n_dims: int = 3
) -> Float[Tensor, "B N D"]:
    """Return the packed velocity of a packed state."""
    return pack(*velocity(t, *unpack(y, n_dims), mask))
