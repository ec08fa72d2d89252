"""A velocity is a function of time and state; integrators and derivatives see it as one of the packed state [x | h].

Space has three dimensions unless it is said otherwise: shapes name its number of dimensions S where it matters."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(t (B,), x (B,N,3), h (B,N,F), mask (B,N) bool) -> (dx, dh); every dynamics is one, and so is any plain function."""


def pack(x: Float[Tensor, "*B N S"], h: Float[Tensor, "*B N F"]) -> Float[Tensor, "*B N D"]:
    """Positions and features side by side, D = S + F."""
    return torch.cat([x, h], -1)


def unpack(y: Float[Tensor, "*B N D"], n_dims: int = 3) -> tuple[Float[Tensor, "*B N S"], Float[Tensor, "*B N F"]]:
    """Positions and features, views of the packed state."""
    return y[..., :n_dims], y[..., n_dims:]


def packed(
    velocity: Velocity, t: Float[Tensor, " B"], y: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], n_dims: int = 3
) -> Float[Tensor, "B N D"]:
    """The velocity of a packed state, packed."""
    return pack(*velocity(t, *unpack(y, n_dims), mask))
