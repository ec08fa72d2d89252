"""The adaptive Dormand-Prince 5(4) method for a batch of rows with their own times, step sizes and statuses.

The method is by Dormand and Prince (J. Comput. Appl. Math. 6, 1980). The step control and the first step are by
Hairer, Norsett and Wanner (Solving Ordinary Differential Equations I, II.4). `init` and `step` do not wait for the
device: the failure of a row is a value in the state, not an exception.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.solver_state import SolverState, Status
from enflow.model.flow.ode.step_control import (
    MAX_STEPS,
    PerRow,
    Step,
    all_finite,
    error_scale,
    next_step,
    norm,
    per_entry,
    per_row,
    sizes,
    status_after,
)
from enflow.model.flow.ode.tolerances import FINE
from enflow.model.flow.velocity import Velocity, pack, packed

STAGE_TIMES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""The last row is the fifth-order solution. Its derivative is the first stage of the next step (FSAL)."""
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
QUARTIC = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
"""The weights of the quartic term of the dense output."""

LONGEST_FIRST_STEP = 0.005
"""The longest step from t = 1 towards t = 0; from another time it is |1 - t| longer. A flow of data expands there at
rates up to 1 / (1 - t), limited by the finest scale of the network. Over a longer step an explicit method misses the
growth of a small error, and so does its error estimate. Without the limit the first step alone changed a log-density by
11 nats at the tolerance 1e-4 (18 atoms, bundled weights), and all other steps together by 0.1."""

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
PROPORTIONAL, INTEGRAL = 0.17, 0.04
"""Exponents of the PI controller: 1/5 less 3/4 of the integral exponent, and the integral exponent."""


def init(
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    times: PerRow,
    tolerances: PerRow,
    ending: PerRow = FINE,
) -> SolverState:
    """Return the state at t0, with the first step size by Hairer's rule; two evaluations of the velocity.

    A row with a value that is not finite has the status NON_FINITE, and a row with t0 = t1 has SUCCESS.

    Args:
        velocity: the dynamics.
        x, h, mask: positions, features and mask at t0.
        times: t0 and t1, the start and the end, per row or for all.
        tolerances: the relative and the absolute tolerance, per row or for all.
        ending: not used: this method allows the same error at all times, and goes to the end.
    """
    t, t_end, rtol, atol, final_scale = (per_row(value, x) for value in (*times, *tolerances, ending[0]))
    y, n_dims = pack(x, h), x.shape[-1]
    f0 = packed(velocity, t, y, mask, n_dims)
    scale = error_scale(sizes(y, n_dims), rtol, atol)
    d0, d1 = norm(y, scale, mask), norm(f0, scale, mask)
    span = t_end - t
    trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span.abs())
    signed = trial * span.sign()
    f1 = packed(velocity, t + signed, y + per_entry(signed) * f0, mask, n_dims)
    d2 = norm(f1 - f0, scale, mask) / trial
    steepest = d1.maximum(d2)
    size = torch.where(steepest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** (1 / 5))
    dt = torch.minimum(100 * trial, size).minimum(span.abs())
    # If the trial point is not finite, the trial step was too long: begin with it, and the control reduces it.
    dt = torch.where(dt.isfinite(), dt, trial) * span.sign()
    status = torch.where(span == 0, Status.SUCCESS, Status.RUNNING)
    status = torch.where(all_finite(y, f0) & dt.isfinite(), status, Status.NON_FINITE)
    zero = torch.zeros_like(status)
    return SolverState(
        t,
        t_end,
        dt,
        x,
        h,
        f0,
        mask,
        rtol,
        atol,
        final_scale,
        torch.zeros_like(t),
        zero + 2,
        zero,
        status,
        torch.full_like(t, 1e-4),
        order=zero,
    )


def step(velocity: Velocity, state: SolverState, max_steps: int = MAX_STEPS) -> Step:
    """Attempt one step of every running row; six evaluations of the velocity.

    A rejected row keeps its state and gets a smaller dt. A row that has stopped is evaluated but does not change. The
    step of a row depends on its own atoms alone.
    """
    running = state.running
    dt, last = next_step(state, _limited(state))
    y0, n_dims = pack(state.x, state.h), state.x.shape[-1]
    y1, slopes = _stages(velocity, state, y0, dt)
    largest = torch.maximum(sizes(y0, n_dims), sizes(y1, n_dims))
    error = norm(_combine(ERROR, slopes), error_scale(largest, state.rtol, state.atol), state.mask)
    finite = all_finite(y1, slopes[-1]) & error.isfinite()
    accepted = running & finite & (error <= 1)

    t1 = torch.where(last, state.t_end, state.t + dt)
    interpolant = Interpolant(state.t, t1, y0, y1, slopes[0], slopes[-1], _combine(QUARTIC, slopes))
    f1 = slopes[-1] / per_entry(torch.where(running, dt, 1.0))
    new_dt = dt * _factor(error, state.error, accepted, finite)
    stepped = state._replace(
        t=torch.where(accepted, t1, state.t),
        dt=torch.where(running, new_dt, state.dt),
        x=torch.where(per_entry(accepted), y1[..., :n_dims], state.x),
        h=torch.where(per_entry(accepted), y1[..., n_dims:], state.h),
        derivatives=torch.where(per_entry(accepted), f1, state.derivatives),
        nfe=state.nfe + 6 * running,
        n_steps=state.n_steps + running,
        status=status_after(state, new_dt, accepted, last, finite, max_steps),
        error=torch.where(accepted, error.clamp(min=1e-4), state.error),
    )
    return Step(stepped, accepted, interpolant)


def _stages(velocity: Velocity, state: SolverState, y0: Tensor, dt: Tensor) -> tuple[Tensor, list[Tensor]]:
    # Slopes are derivatives times dt.
    slopes = [per_entry(dt) * state.derivatives]
    y = y0
    for node, weights in zip(STAGE_TIMES[1:], STAGES[1:], strict=True):
        y = y0 + _combine(weights, slopes)
        slopes.append(per_entry(dt) * packed(velocity, state.t + node * dt, y, state.mask, state.x.shape[-1]))
    return y, slopes


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total.add(slope, alpha=weight)
    return total


def _limited(state: SolverState) -> Tensor:
    """Return the planned step, which is limited towards t = 0."""
    longest = (1.0 - state.t).abs() + LONGEST_FIRST_STEP
    return torch.where(state.t_end < state.t, torch.maximum(state.dt, -longest), state.dt)


def _factor(error: Tensor, previous: Tensor, accepted: Tensor, finite: Tensor) -> Tensor:
    error = error.clamp(min=1e-10)
    grown = SAFETY * error**-PROPORTIONAL * previous**INTEGRAL
    shrunk = SAFETY * error ** -(1 / 5)
    factor = torch.where(accepted, grown, shrunk).clamp(SHRINK, GROW)
    return torch.where(finite, factor, SHRINK)
