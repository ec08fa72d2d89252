"""The adaptive Dormand-Prince 5(4) method for a batch of rows with their own times, step sizes and statuses.

The method is by Dormand and Prince (J. Comput. Appl. Math. 6, 1980). The step control and the first step are by
Hairer, Norsett and Wanner (Solving Ordinary Differential Equations I, II.4). `init` and `step` do not wait for the
device: the failure of a row is a value in the state, not an exception.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.solver_state import SolverState, Status
from enflow.model.flow.velocity import Velocity, pack, packed, unpack

MAX_STEPS = 1000
"""The largest number of attempted steps of a row; a trained model needs 10 to 200."""

MIN_FLOAT32_TOLERANCE = 1e-7
"""The smallest tolerance for float32: 24 molecules were encoded and decoded as accurately as in float64."""

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
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

PerRow = tuple[Float[Tensor, " B"] | float, Float[Tensor, " B"] | float]
"""Two quantities of the solver, each per row or for all rows."""


class Step(NamedTuple):
    """The result of one attempted step."""

    state: SolverState
    accepted: Bool[Tensor, " B"]
    interpolant: Interpolant
    """The state within the step; valid for accepted rows."""


def interpolate(step: Step, t: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
    """Return positions and features (x, h) at one time per row within the step."""
    return unpack(step.interpolant.at(t), step.state.x.shape[-1])


def working_dtype(tolerance: float, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a row of this tolerance is solved, for weights of the given dtype."""
    return torch.float64 if tolerance < MIN_FLOAT32_TOLERANCE else dtype


def init(
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    times: PerRow,
    tolerances: PerRow,
) -> SolverState:
    """Return the state at t0, with the first step size by Hairer's rule; two evaluations of the velocity.

    A row with a value that is not finite has the status NON_FINITE, and a row with t0 = t1 has SUCCESS.

    Args:
        velocity: the dynamics.
        x, h, mask: positions, features and mask at t0.
        times: t0 and t1, the start and the end, per row or for all.
        tolerances: the relative and the absolute tolerance, per row or for all.
    """
    t, t_end, rtol, atol = (_per_row(value, x) for value in (*times, *tolerances))
    y, n_dims = pack(x, h), x.shape[-1]
    f0 = packed(velocity, t, y, mask, n_dims)
    scale = _scale(y, y, rtol, atol, n_dims)
    d0, d1 = _norm(y, scale, mask), _norm(f0, scale, mask)
    span = t_end - t
    trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span.abs())
    signed = trial * span.sign()
    f1 = packed(velocity, t + signed, y + _per_entry(signed) * f0, mask, n_dims)
    d2 = _norm(f1 - f0, scale, mask) / trial
    steepest = d1.maximum(d2)
    size = torch.where(steepest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** (1 / 5))
    dt = torch.minimum(100 * trial, size).minimum(span.abs())
    # If the trial point is not finite, the trial step was too long: begin with it, and the control reduces it.
    dt = torch.where(dt.isfinite(), dt, trial) * span.sign()
    status = torch.where(span == 0, Status.SUCCESS, Status.RUNNING)
    status = torch.where(_finite(y, f0) & dt.isfinite(), status, Status.NON_FINITE)
    zero = torch.zeros_like(status)
    return SolverState(
        t, t_end, dt, x, h, *unpack(f0, n_dims), mask, rtol, atol, zero + 2, zero, status, torch.full_like(t, 1e-4)
    )


def step(velocity: Velocity, state: SolverState, max_steps: int = MAX_STEPS) -> Step:
    """Attempt one step of every running row; six evaluations of the velocity.

    A rejected row keeps its state and gets a smaller dt. A row that has stopped is evaluated but does not change. The
    step of a row depends on its own atoms alone. The error is sqrt(mean((e / (atol + rtol |y|))^2)) over the real
    entries. For positions |y| is the distance from the centre, so that step sizes are invariant under rotation.
    """
    running = state.running
    remaining = state.t_end - state.t
    planned = _limited(state)
    last = planned.abs() * 1.01 >= remaining.abs()
    dt = torch.where(running, torch.where(last, remaining, planned), 0.0)
    y0, n_dims = pack(state.x, state.h), state.x.shape[-1]
    y1, slopes = _stages(velocity, state, y0, dt)
    error = _norm(_combine(ERROR, slopes), _scale(y0, y1, state.rtol, state.atol, n_dims), state.mask)
    finite = _finite(y1, slopes[-1]) & error.isfinite()
    accepted = running & finite & (error <= 1)

    t1 = torch.where(last, state.t_end, state.t + dt)
    interpolant = Interpolant(state.t, t1, y0, y1, slopes[0], slopes[-1], _combine(QUARTIC, slopes))
    f1 = slopes[-1] / _per_entry(torch.where(running, dt, 1.0))
    new_dt = dt * _factor(error, state.error, accepted, finite)
    n_steps = state.n_steps + running
    stepped = SolverState(
        t=torch.where(accepted, t1, state.t),
        t_end=state.t_end,
        dt=torch.where(running, new_dt, state.dt),
        x=torch.where(_per_entry(accepted), y1[..., :n_dims], state.x),
        h=torch.where(_per_entry(accepted), y1[..., n_dims:], state.h),
        dx=torch.where(_per_entry(accepted), f1[..., :n_dims], state.dx),
        dh=torch.where(_per_entry(accepted), f1[..., n_dims:], state.dh),
        mask=state.mask,
        rtol=state.rtol,
        atol=state.atol,
        nfe=state.nfe + 6 * running,
        n_steps=n_steps,
        status=torch.where(running, _status(state, new_dt, accepted, last, finite, n_steps >= max_steps), state.status),
        error=torch.where(accepted, error.clamp(min=1e-4), state.error),
    )
    return Step(stepped, accepted, interpolant)


def solve_rows(
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    times: PerRow,
    tolerances: PerRow,
    observe: Callable[[Step], None] = lambda _: None,
) -> SolverState:
    """Solve a batch of rows until the last one has stopped.

    Args:
        velocity, x, h, mask, times, tolerances: see `init`.
        observe: a function that is called with every attempted step.
    """
    state = init(velocity, x, h, mask, times, tolerances)
    while state.running.any():
        attempt = step(velocity, state)
        observe(attempt)
        state = attempt.state
    return state


def _stages(velocity: Velocity, state: SolverState, y0: Tensor, dt: Tensor) -> tuple[Tensor, list[Tensor]]:
    # Slopes are derivatives times dt.
    slopes = [_per_entry(dt) * pack(state.dx, state.dh)]
    y = y0
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        y = y0 + _combine(weights, slopes)
        slopes.append(_per_entry(dt) * packed(velocity, state.t + node * dt, y, state.mask, state.x.shape[-1]))
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


def _status(
    state: SolverState, dt: Tensor, accepted: Tensor, last: Tensor, finite: Tensor, out_of_steps: Tensor
) -> Tensor:
    shortest = 16 * torch.finfo(dt.dtype).eps * torch.maximum(state.t.abs(), state.t_end.abs())
    stuck = ~accepted & (dt.abs() < shortest)
    status = torch.where(out_of_steps, Status.MAX_STEPS, Status.RUNNING)
    status = torch.where(stuck, torch.where(finite, Status.MIN_STEP, Status.NON_FINITE), status)
    return torch.where(accepted & last, Status.SUCCESS, status)


def _scale(y0: Tensor, y1: Tensor, rtol: Tensor, atol: Tensor, n_dims: int) -> Tensor:
    return _per_entry(atol) + _per_entry(rtol) * torch.maximum(_size(y0, n_dims), _size(y1, n_dims))


def _size(y: Tensor, n_dims: int) -> Tensor:
    # The length of a position vector is invariant under rotation, the size of a component is not.
    x, h = unpack(y, n_dims)
    return pack(x.norm(dim=-1, keepdim=True).expand_as(x), h.abs())


def _norm(y: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    squares = torch.where(mask[..., None], y / scale, 0.0).square().sum((1, 2))
    return (squares / (mask.sum(1) * y.shape[-1]).clamp(min=1)).sqrt()


def _finite(*fields: Tensor) -> Tensor:
    return torch.stack([field.isfinite().flatten(1).all(1) for field in fields]).all(0)


def _per_entry(row: Tensor) -> Tensor:
    return row[:, None, None]


def _per_row(value: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape[0])
