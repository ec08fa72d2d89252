"""A velocity is a function of time and state; integrators and derivatives see it as one of the packed state [x | h]."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(t (B,), x (B,N,3), h (B,N,F), mask (B,N) bool) -> (dx, dh); every dynamics is one, and so is any plain function."""


def pack(x: Float[Tensor, "*B N 3"], h: Float[Tensor, "*B N F"]) -> Float[Tensor, "*B N D"]:
    """Positions and features side by side, D = 3 + F."""
    return torch.cat([x, h], -1)


def unpack(y: Float[Tensor, "*B N D"]) -> tuple[Float[Tensor, "*B N 3"], Float[Tensor, "*B N F"]]:
    """Positions and features, views of the packed state."""
    return y[..., :3], y[..., 3:]


def packed(
    velocity: Velocity, t: Float[Tensor, " B"], y: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N D"]:
    """The velocity of a packed state, packed."""
    return pack(*velocity(t, *unpack(y), mask))
