"""One adaptive Runge-Kutta step for many molecules at once, each with a time, a step size and a fate of its own.

The pair is Dormand and Prince's 5(4) (J. Comput. Appl. Math. 6, 1980), the step control and the first step are those of
Hairer, Norsett and Wanner (Solving Ordinary Differential Equations I, II.4). Nothing here waits for the device: the
state of a row is data, also when it fails.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.velocity import Velocity, pack, packed, unpack

MAX_STEPS = 1000
"""Attempts of one row; a trained molecule takes 10 to 200."""

FINEST_SINGLE = 1e-7
"""The smallest tolerance for which float32 will do: 24 molecules went there and back as well in it as in float64."""

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
"""The last row is the fifth-order solution itself: its derivative opens the next step (FSAL)."""
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
BUMP = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
"""Dense output: the quartic term of the interpolant."""

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
PROPORTIONAL, INTEGRAL = 0.17, 0.04
"""Exponents of the PI controller: 1/5 - 3/4 of the integral part, and the integral part."""


class Status(IntEnum):
    """What became of a row."""

    RUNNING = 0
    SUCCESS = 1
    MAX_STEPS = 2
    MIN_STEP = 3
    NON_FINITE = 4


class SolverState(NamedTuple):
    """Rows in flight; a value: every function here returns a new one.

    Derivatives are those at t. Entries outside the mask are zero.
    """

    t: Float[Tensor, " B"]
    t_end: Float[Tensor, " B"]
    dt: Float[Tensor, " B"]
    """The step to try next, negative where t_end lies below t."""
    x: Float[Tensor, "B N S"]
    h: Float[Tensor, "B N F"]
    dx: Float[Tensor, "B N S"]
    dh: Float[Tensor, "B N F"]
    mask: Bool[Tensor, "B N"]
    rtol: Float[Tensor, " B"]
    atol: Float[Tensor, " B"]
    nfe: Int[Tensor, " B"]
    n_steps: Int[Tensor, " B"]
    """Attempts, rejected ones included."""
    status: Int[Tensor, " B"]
    error: Float[Tensor, " B"]
    """Error of the last accepted step, in units of the tolerance."""

    @property
    def running(self) -> Bool[Tensor, " B"]:
        """Which rows are still on their way."""
        return self.status == Status.RUNNING


class Step(NamedTuple):
    """What one attempt did."""

    state: SolverState
    accepted: Bool[Tensor, " B"]
    interpolant: Interpolant
    """The state within the step, of meaning where it was accepted."""


def interpolate(step: Step, t: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
    """Positions and features (x, h) at a time within the step, one per row."""
    return unpack(step.interpolant.at(t), step.state.x.shape[-1])


def arithmetic(tolerance: float, dtype: torch.dtype) -> torch.dtype:
    """What rows of that tolerance are stepped in, by a model whose weights have that dtype."""
    return torch.float64 if tolerance < FINEST_SINGLE else dtype


def init(
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    t0: Float[Tensor, " B"] | float,
    t1: Float[Tensor, " B"] | float,
    rtol: Float[Tensor, " B"] | float,
    atol: Float[Tensor, " B"] | float,
) -> SolverState:
    """Rows at t0, ready to step towards t1, with a first step by Hairer's rule; costs two evaluations.

    A row that is not finite, or that has nowhere to go, is returned with its status and will not move.
    """
    t, t_end, rtol, atol = (_per_row(value, x) for value in (t0, t1, rtol, atol))
    y, n_dims = pack(x, h), x.shape[-1]
    f0 = packed(velocity, t, y, mask, n_dims)
    scale = _scale(y, y, rtol, atol, n_dims)
    d0, d1 = _norm(y, scale, mask), _norm(f0, scale, mask)
    span = t_end - t
    trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span.abs())
    signed = trial * span.sign()
    f1 = packed(velocity, t + signed, y + _wide(signed) * f0, mask, n_dims)
    d2 = _norm(f1 - f0, scale, mask) / trial
    steepest = d1.maximum(d2)
    size = torch.where(steepest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** (1 / 5))
    dt = torch.minimum(100 * trial, size).minimum(span.abs())
    # A non-finite trial point says only that the trial was too long: begin with it and let the control shrink it.
    dt = torch.where(dt.isfinite(), dt, trial) * span.sign()
    status = torch.where(span == 0, Status.SUCCESS, Status.RUNNING)
    status = torch.where(_finite(y, f0) & dt.isfinite(), status, Status.NON_FINITE)
    zero = torch.zeros_like(status)
    return SolverState(
        t, t_end, dt, x, h, *unpack(f0, n_dims), mask, rtol, atol, zero + 2, zero, status, torch.full_like(t, 1e-4)
    )


def step(velocity: Velocity, state: SolverState, max_steps: int = MAX_STEPS) -> Step:
    """Every running row attempts one step: six evaluations, accepted or to be retried with a smaller dt.

    Rows that are not running are evaluated in place and stay as they are. A row's step depends on its own atoms only;
    its error is sqrt(mean((e / (atol + rtol |y|))^2)) over its real entries, where |y| is an atom's distance from the
    centre for positions, so that step sizes, too, are invariant under rotation.
    """
    running = state.running
    remaining = state.t_end - state.t
    last = state.dt.abs() * 1.01 >= remaining.abs()
    dt = torch.where(running, torch.where(last, remaining, state.dt), 0.0)
    y0, n_dims = pack(state.x, state.h), state.x.shape[-1]
    y1, slopes = _stages(velocity, state, y0, dt)
    error = _norm(_combine(ERROR, slopes), _scale(y0, y1, state.rtol, state.atol, n_dims), state.mask)
    finite = _finite(y1, slopes[-1]) & error.isfinite()
    accepted = running & finite & (error <= 1)

    t1 = torch.where(last, state.t_end, state.t + dt)
    interpolant = Interpolant(state.t, t1, y0, y1, slopes[0], slopes[-1], _combine(BUMP, slopes))
    f1 = slopes[-1] / _wide(torch.where(running, dt, 1.0))
    new_dt = dt * _factor(error, state.error, accepted, finite)
    n_steps = state.n_steps + running
    moved = SolverState(
        t=torch.where(accepted, t1, state.t),
        t_end=state.t_end,
        dt=torch.where(running, new_dt, state.dt),
        x=torch.where(_wide(accepted), y1[..., :n_dims], state.x),
        h=torch.where(_wide(accepted), y1[..., n_dims:], state.h),
        dx=torch.where(_wide(accepted), f1[..., :n_dims], state.dx),
        dh=torch.where(_wide(accepted), f1[..., n_dims:], state.dh),
        mask=state.mask,
        rtol=state.rtol,
        atol=state.atol,
        nfe=state.nfe + 6 * running,
        n_steps=n_steps,
        status=torch.where(running, _status(state, new_dt, accepted, last, finite, n_steps >= max_steps), state.status),
        error=torch.where(accepted, error.clamp(min=1e-4), state.error),
    )
    return Step(moved, accepted, interpolant)


def solve_rows(
    velocity: Velocity,
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    t0: Float[Tensor, " B"] | float,
    t1: Float[Tensor, " B"] | float,
    rtol: Float[Tensor, " B"] | float,
    atol: Float[Tensor, " B"] | float,
    max_steps: int = MAX_STEPS,
    observe: Callable[[Step], None] = lambda _: None,
) -> SolverState:
    """Step these rows until the last of them has ended; `observe` sees every attempt."""
    state = init(velocity, x, h, mask, t0, t1, rtol, atol)
    while state.running.any():
        attempt = step(velocity, state, max_steps)
        observe(attempt)
        state = attempt.state
    return state


def vacant(slots: int, n_atoms: int, n_features: int, dtype: torch.dtype, device: torch.device) -> SolverState:
    """Slots without a row: nothing in them runs, and `place` fills them."""
    row = torch.zeros(slots, dtype=dtype, device=device)
    x, h = row.new_zeros(slots, n_atoms, 3), row.new_zeros(slots, n_atoms, n_features)
    count = torch.zeros(slots, dtype=torch.int64, device=device)
    mask = torch.zeros(slots, n_atoms, dtype=torch.bool, device=device)
    return SolverState(row, row, row, x, h, x, h, mask, row, row + 1, count, count, count + Status.SUCCESS, row + 1)


def join(state: SolverState, other: SolverState) -> SolverState:
    """The rows of both, padded to the larger molecule."""
    n_atoms = max(state.x.shape[1], other.x.shape[1])
    pairs = zip(state, other, strict=True)
    return SolverState(*(torch.cat([_padded(a, n_atoms), _padded(b, n_atoms)]) for a, b in pairs))


def select(state: SolverState, rows: Int[Tensor, " R"], n_atoms: int | None = None) -> SolverState:
    """These rows only, each cut to its first `n_atoms` atoms where given (what is cut must be padding)."""
    chosen = SolverState(*(field.index_select(0, rows) for field in state))
    return chosen if n_atoms is None else SolverState(*(f if f.ndim == 1 else f[:, :n_atoms] for f in chosen))


def place(state: SolverState, slots: Int[Tensor, " R"], other: SolverState) -> SolverState:
    """The state with the rows of `other` in these slots; shapes stay."""
    n_atoms = state.x.shape[1]
    pairs = zip(state, other, strict=True)
    return SolverState(*(a.index_copy(0, slots, _padded(b, n_atoms)) for a, b in pairs))


def _stages(velocity: Velocity, state: SolverState, y0: Tensor, dt: Tensor) -> tuple[Tensor, list[Tensor]]:
    # Slopes are derivatives times dt, so that every combination of them is one of increments.
    slopes = [_wide(dt) * pack(state.dx, state.dh)]
    y = y0
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        y = y0 + _combine(weights, slopes)
        slopes.append(_wide(dt) * packed(velocity, state.t + node * dt, y, state.mask, state.x.shape[-1]))
    return y, slopes


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total.add(slope, alpha=weight)
    return total


def _factor(error: Tensor, previous: Tensor, accepted: Tensor, finite: Tensor) -> Tensor:
    error = error.clamp(min=1e-10)
    grown = SAFETY * error**-PROPORTIONAL * previous**INTEGRAL
    shrunk = SAFETY * error ** -(1 / 5)
    factor = torch.where(accepted, grown, shrunk).clamp(SHRINK, GROW)
    return torch.where(finite, factor, SHRINK)


def _status(
    state: SolverState, dt: Tensor, accepted: Tensor, last: Tensor, finite: Tensor, exhausted: Tensor
) -> Tensor:
    shortest = 16 * torch.finfo(dt.dtype).eps * torch.maximum(state.t.abs(), state.t_end.abs())
    stuck = ~accepted & (dt.abs() < shortest)
    status = torch.where(exhausted, Status.MAX_STEPS, Status.RUNNING)
    status = torch.where(stuck, torch.where(finite, Status.MIN_STEP, Status.NON_FINITE), status)
    return torch.where(accepted & last, Status.SUCCESS, status)


def _scale(y0: Tensor, y1: Tensor, rtol: Tensor, atol: Tensor, n_dims: int) -> Tensor:
    return _wide(atol) + _wide(rtol) * torch.maximum(_size(y0, n_dims), _size(y1, n_dims))


def _size(y: Tensor, n_dims: int) -> Tensor:
    # Of positions the length of the vector, not of its components: those change as a molecule is turned.
    x, h = unpack(y, n_dims)
    return pack(x.norm(dim=-1, keepdim=True).expand_as(x), h.abs())


def _norm(y: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    squares = torch.where(mask[..., None], y / scale, 0.0).square().sum((1, 2))
    return (squares / (mask.sum(1) * y.shape[-1]).clamp(min=1)).sqrt()


def _finite(*fields: Tensor) -> Tensor:
    return torch.stack([field.isfinite().flatten(1).all(1) for field in fields]).all(0)


def _wide(row: Tensor) -> Tensor:
    return row[:, None, None]


def _per_row(value: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape[0])


def _padded(field: Tensor, n_atoms: int) -> Tensor:
    if field.ndim == 1:
        return field
    missing = n_atoms - field.shape[1]
    return F.pad(field, (0, 0, 0, missing) if field.ndim == 3 else (0, missing))
