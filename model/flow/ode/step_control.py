"""The parts that the adaptive methods share: the norm of an error, the next step, and the status of a row.

The norm is sqrt(mean((e / (atol + rtol |y|))^2)) over the real entries (Hairer, Norsett and Wanner, Solving Ordinary
Differential Equations I, II.4). For positions |y| is the distance from the centre, so that step sizes are invariant
under rotation.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.solver_state import SolverState, Status
from enflow.model.flow.ode.tolerances import TIGHTEST_FLOAT32
from enflow.model.flow.velocity import pack, unpack

MAX_STEPS = 1000
"""The largest number of attempted steps of a row; a trained model needs 10 to 200."""

PerRow = tuple[Float[Tensor, " B"] | float, Float[Tensor, " B"] | float]
"""Two quantities of the solver, each per row or for all rows."""


class Step(NamedTuple):
    """The result of one attempted step."""

    state: SolverState
    accepted: Bool[Tensor, " B"]
    interpolant: Interpolant
    """The state within the step; valid for accepted rows."""


def working_dtype(tolerance: float, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a row of this tolerance is solved, for weights of the given dtype."""
    return torch.float64 if tolerance < TIGHTEST_FLOAT32 else dtype


def next_step(state: SolverState, planned: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Return the steps to attempt, which do not pass the end and are 0 for stopped rows, and the rows that end."""
    remaining = state.t_end - state.t
    last = planned.abs() * 1.01 >= remaining.abs()
    return torch.where(state.running, torch.where(last, remaining, planned), 0.0), last


def sizes(y: Float[Tensor, "B N D"], n_dims: int) -> Float[Tensor, "B N D"]:
    """Return the size of each entry: the length of a position vector, which is invariant under rotation, or |h|."""
    x, h = unpack(y, n_dims)
    return pack(x.norm(dim=-1, keepdim=True).expand_as(x), h.abs())


def error_scale(
    size: Float[Tensor, "B N D"], rtol: Float[Tensor, " B"], atol: Float[Tensor, " B"]
) -> Float[Tensor, "B N D"]:
    """Return the error that is allowed per entry, atol + rtol size."""
    return torch.addcmul(per_entry(atol), per_entry(rtol), size)


def norm(y: Float[Tensor, "B N D"], scale: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Return the root mean square of y / scale over the real entries of each row."""
    squares = torch.where(mask[..., None], y / scale, 0.0).square().sum((1, 2))
    return (squares / (mask.sum(1) * y.shape[-1]).clamp(min=1)).sqrt()


def status_after(
    state: SolverState, dt: Tensor, accepted: Tensor, last: Tensor, finite: Tensor, max_steps: int
) -> Tensor:
    """Return the statuses of the rows after an attempted step.

    Args:
        state: the state before the step.
        dt: the steps to try next.
        accepted, last, finite: rows whose step is accepted, would end at t_end, and has finite values.
        max_steps: the largest number of attempted steps of a row.
    """
    shortest = 16 * torch.finfo(dt.dtype).eps * torch.maximum(state.t.abs(), state.t_end.abs())
    stuck = ~accepted & (dt.abs() < shortest)
    status = torch.where(state.n_steps + 1 >= max_steps, Status.MAX_STEPS, Status.RUNNING)
    status = torch.where(stuck, torch.where(finite, Status.MIN_STEP, Status.NON_FINITE), status)
    return torch.where(state.running, torch.where(accepted & last, Status.SUCCESS, status), state.status)


def all_finite(*fields: Tensor) -> Bool[Tensor, " B"]:
    """Return the rows of which all values are finite."""
    return torch.stack([field.isfinite().flatten(1).all(1) for field in fields]).all(0)


def per_entry(row: Shaped[Tensor, " B"]) -> Shaped[Tensor, "B 1 1"]:
    """Return a quantity of rows in a shape that broadcasts with their entries."""
    return row[:, None, None]


def per_row(value: Tensor | float, x: Tensor) -> Float[Tensor, " B"]:
    """Return a quantity, given per row or for all rows, as one value per row of x."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape[0])
