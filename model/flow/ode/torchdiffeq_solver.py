"""The solve of a trajectory together with its log-density, for training by likelihood and as an independent check.

d/dt (y, ladj, kinetic, frobenius) = (v, div v, |v|^2, |J^T e|^2): the change of density of Chen et al. (2018) with the
estimate of Grathwohl et al. (2019), and the regularisation terms of Finlay et al. (2020). This module alone imports
torchdiffeq, which has one step size and one error norm for a whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from enflow.model.flow.divergence import exact, velocity_and_vjp
from enflow.model.flow.velocity import Velocity, pack, packed, unpack


class Solution(NamedTuple):
    """The state at t1 and the integrals from t0 to t1, per row."""

    x: Float[Tensor, "B N S"]
    h: Float[Tensor, "B N F"]
    ladj: Float[Tensor, " B"]
    """The integral of the divergence from t0 to t1: log |det d(x, h)(t1) / d(x, h)(t0)|, nats."""
    kinetic: Float[Tensor, " B"]
    """The integral of |v|^2 over |t1 - t0|."""
    frobenius: Float[Tensor, " B"]
    """The integral of |J^T e|^2, an estimate of the squared norm of the Jacobian; 0 without a probe."""
    nfe: int


@dataclass(frozen=True)
class AugmentedOptions:
    """The settings of `solve`.

    Attributes:
        tolerance: the relative and absolute tolerance of the whole batch.
        adjoint: the parameters of the velocity. Their gradients are found by the adjoint method, in constant memory.
            None = gradients through the steps of the solver.
        regularised: integrate `kinetic` and `frobenius` too, whose errors shorten the steps; otherwise both are zero.
    """

    tolerance: float = 1e-5
    adjoint: Sequence[Tensor] | None = None
    regularised: bool = True


def solve(
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    times: tuple[float, float],
    probe: Float[Tensor, "B N D"] | None = None,
    options: AugmentedOptions = AugmentedOptions(),
) -> Solution:
    """Solve the augmented ODE by adaptive Dormand-Prince 5(4); differentiable.

    Args:
        velocity: the dynamics.
        x, h, mask: positions, features and mask at t0.
        times: t0 and t1, the start and the end, in either order.
        probe: the noise of Hutchinson's estimate; None = the exact trace.
        options: the tolerance, the way of the gradients and the terms that are integrated.
    """
    direction = 1.0 if times[1] >= times[0] else -1.0
    nfe, n_dims = 0, x.shape[-1]

    def augmented(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal nfe
        nfe += 1
        y, t = state[0], t.to(x).expand(len(x))
        if probe is None:
            value = packed(velocity, t, y, mask, n_dims)
            divergence, frobenius = exact(velocity, t, *unpack(y, n_dims), mask), torch.zeros_like(state[1])
        else:
            value, pulled = velocity_and_vjp(velocity, t, *unpack(y, n_dims), mask, probe)
            divergence, frobenius = (pulled * probe).sum((1, 2)), pulled.square().sum((1, 2))
        return (
            value,
            divergence,
            *([direction * value.square().sum((1, 2)), direction * frobenius] if options.regularised else []),
        )

    zero = x.new_zeros(len(x))
    squares = (zero, zero) if options.regularised else ()
    start, ends, tolerance = (pack(x, h), zero, *squares), x.new_tensor(times), options.tolerance
    if options.adjoint is None:
        path = odeint(augmented, start, ends, rtol=tolerance, atol=tolerance)
    else:
        adjoint = tuple(options.adjoint)
        path = odeint_adjoint(augmented, start, ends, rtol=tolerance, atol=tolerance, adjoint_params=adjoint)
    y, ladj, *others = (field[-1] for field in path)
    kinetic, frobenius = others or (zero, zero)
    return Solution(*unpack(y, n_dims), ladj, kinetic, frobenius, nfe)


def solve_heun(
    velocity: Velocity, x: Float[Tensor, "B N S"], h: Float[Tensor, "B N F"], mask: Bool[Tensor, "B N"], steps: int
) -> tuple[Float[Tensor, "B N S"], Float[Tensor, "B N F"]]:
    """Return the state at t = 1 from the state at t = 0 by equal steps of Heun's method, two evaluations each."""
    n_dims = x.shape[-1]

    def field(t: Tensor, y: Tensor) -> Tensor:
        return packed(velocity, t.to(x).expand(len(x)), y, mask, n_dims)

    times = torch.linspace(0.0, 1.0, steps + 1, dtype=x.dtype, device=x.device)
    return unpack(odeint(field, pack(x, h), times, method="heun2")[-1], n_dims)
