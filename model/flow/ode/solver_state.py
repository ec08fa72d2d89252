"""The state of an adaptive solver whose rows have their own time, step size and status, and operations on its rows."""

from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Status(IntEnum):
    """The status of a row: still running, or the reason why it stopped."""

    RUNNING = 0
    SUCCESS = 1
    MAX_STEPS = 2
    MIN_STEP = 3
    NON_FINITE = 4


class SolverState(NamedTuple):
    """The state of a batch of rows. Functions return a new state and change none.

    Entries outside the mask are zero.
    """

    t: Float[Tensor, " B"]
    t_end: Float[Tensor, " B"]
    dt: Float[Tensor, " B"]
    """The step to try next; negative if t_end is below t."""
    x: Float[Tensor, "B N S"]
    h: Float[Tensor, "B N F"]
    derivatives: Float[Tensor, "B N T"]
    """The packed derivative at t, T = D; for a multistep method the Taylor coefficients of orders 1 to 3, T = 3 D."""
    mask: Bool[Tensor, "B N"]
    rtol: Float[Tensor, " B"]
    atol: Float[Tensor, " B"]
    final_scale: Float[Tensor, " B"]
    """The error that is allowed at t = 1 in units of the tolerance, for Adams' method."""
    line: Float[Tensor, " B"]
    """The length, in time, of a straight line along the velocity by which x and h go on at t_end, for Adams' method; t
    stays there. 0 = no line."""
    nfe: Int[Tensor, " B"]
    n_steps: Int[Tensor, " B"]
    """The number of attempted steps, rejected ones included."""
    status: Int[Tensor, " B"]
    error: Float[Tensor, " B"]
    """The error of the last accepted step, in units of the tolerance, for the control of Dormand-Prince."""
    order: Int[Tensor, " B"]
    """The order of the next prediction of a multistep method; 0 for a one-step method."""

    @property
    def running(self) -> Bool[Tensor, " B"]:
        """A mask of the rows that have not stopped."""
        return self.status == Status.RUNNING


def empty(
    slots: int, n_atoms: int, n_features: int, dtype: torch.dtype, device: torch.device, orders: int = 1
) -> SolverState:
    """Return a state of slots without rows: none of them runs, and `insert` fills them.

    Args:
        slots: the number of rows.
        n_atoms, n_features: the shape of a row.
        dtype, device: of the state.
        orders: the number of Taylor coefficients that the method keeps.
    """
    row = torch.zeros(slots, dtype=dtype, device=device)
    x, h = row.new_zeros(slots, n_atoms, 3), row.new_zeros(slots, n_atoms, n_features)
    derivatives = row.new_zeros(slots, n_atoms, orders * (3 + n_features))
    count, one = torch.zeros(slots, dtype=torch.int64, device=device), row + 1
    mask = torch.zeros(slots, n_atoms, dtype=torch.bool, device=device)
    stopped = count + Status.SUCCESS
    return SolverState(row, row, row, x, h, derivatives, mask, row, one, one, row, count, count, stopped, one, count)


def concatenate(state: SolverState, other: SolverState) -> SolverState:
    """Return the rows of both states, padded to the larger number of atoms."""
    n_atoms = max(state.x.shape[1], other.x.shape[1])
    pairs = zip(state, other, strict=True)
    return SolverState(*(torch.cat([_padded(a, n_atoms), _padded(b, n_atoms)]) for a, b in pairs))


def select(state: SolverState, rows: Int[Tensor, " R"], n_atoms: int | None = None) -> SolverState:
    """Return the given rows of a state.

    Args:
        state: the state.
        rows: indices of rows.
        n_atoms: the number of atoms to cut the rows to, from which on all must be padding; None = no cut.
    """
    chosen = SolverState(*(field.index_select(0, rows) for field in state))
    return chosen if n_atoms is None else SolverState(*(f if f.ndim == 1 else f[:, :n_atoms] for f in chosen))


def insert(state: SolverState, slots: Int[Tensor, " R"], other: SolverState) -> SolverState:
    """Return the state with the rows of another state in the given slots; shapes do not change."""
    n_atoms = state.x.shape[1]
    pairs = zip(state, other, strict=True)
    return SolverState(*(a.index_copy(0, slots, _padded(b, n_atoms)) for a, b in pairs))


def _padded(field: Tensor, n_atoms: int) -> Tensor:
    if field.ndim == 1:
        return field
    missing = n_atoms - field.shape[1]
    return F.pad(field, (0, 0, 0, missing) if field.ndim == 3 else (0, missing))
