"""Many molecules through one stepper: they join when there is room and leave when they have arrived."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.dopri5 import MAX_STEPS, SolverState, Status, Step, init, join, select, step
from enflow.model.flow.ode.size_buckets import by_size
from enflow.model.flow.velocity import Velocity

PAIRS = {"cpu": 24000, "cuda": 1 << 18}
"""Pairs of atoms in flight: a few size classes of what a core's cache likes (one class alone, of mixed sizes while some
leave and others join, was padded to 1.38 times its own pairs), and what fills a GPU."""


class InitialState(NamedTuple):
    """Where a molecule sets out, and where to; flow space, no padding."""

    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]
    t0: float
    t1: float
    rtol: float
    atol: float


@dataclass(frozen=True, eq=False)
class FinalState:
    """Where a molecule has come; `index` counts the starts."""

    index: int
    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]
    nfe: int
    status: Status
    path: list[Interpolant]
    """Its accepted steps, one row each without padding, if they were recorded."""

    @property
    def mask(self) -> Bool[Tensor, "1 N"]:
        """Of the molecule as a batch of one."""
        return torch.ones(1, len(self.x), dtype=torch.bool, device=self.x.device)


def travel(
    velocity: Velocity, starts: Sequence[InitialState], record: bool = False, max_steps: int = MAX_STEPS
) -> Iterator[FinalState]:
    """Every start's arrival, in the order in which they arrive.

    The largest go first and neighbours are of like size, so that padding is small and memory stays flat for any number
    of molecules. A molecule's arrival does not depend on its company.
    """
    velocity = by_size(velocity)
    waiting = sorted(range(len(starts)), key=lambda index: len(starts[index].x))
    aboard: list[int] = []
    paths: dict[int, list[Interpolant]] = {}
    state: SolverState | None = None
    while waiting or aboard:
        boarding = _boarding(starts, waiting, aboard)
        if boarding:
            fresh = _begin(velocity, [starts[index] for index in boarding])
            state = join(state, fresh) if state is not None and aboard else fresh
            aboard += boarding
        assert state is not None, "someone is aboard"
        attempt = step(velocity, state, max_steps)
        if record:
            _record(attempt, aboard, starts, paths)
        status = attempt.state.status.tolist()
        for row, index in enumerate(aboard):
            if status[row] != Status.RUNNING:
                yield _arrival(index, attempt.state, row, len(starts[index].x), paths.pop(index, []))
        staying = [row for row, code in enumerate(status) if code == Status.RUNNING]
        aboard = [aboard[row] for row in staying]
        size = max((len(starts[index].x) for index in aboard), default=0)
        state = select(attempt.state, torch.tensor(staying, dtype=torch.int64, device=attempt.state.t.device), size)


def _boarding(starts: Sequence[InitialState], waiting: list[int], aboard: list[int]) -> list[int]:
    """Take from the end of `waiting` what there is room for; wait for a quarter of the room, since boarding costs."""
    largest = max([len(starts[index].x) for index in [*aboard, *waiting[-1:]]], default=1)
    device = starts[0].x.device.type
    room = max(1, PAIRS.get(device, PAIRS["cpu"]) // largest**2) - len(aboard)
    if aboard and room <= len(aboard) // 3:
        return []
    return [waiting.pop() for _ in range(min(room, len(waiting)))]


def _begin(velocity: Velocity, starts: Sequence[InitialState]) -> SolverState:
    x = pad_sequence([start.x for start in starts], batch_first=True)
    h = pad_sequence([start.h for start in starts], batch_first=True)
    n_atoms = torch.tensor([len(start.x) for start in starts], device=x.device)
    mask = torch.arange(x.shape[1], device=x.device) < n_atoms[:, None]
    return init(velocity, x, h, mask, *x.new_tensor([start[2:] for start in starts]).unbind(1))


def _record(
    attempt: Step, aboard: list[int], starts: Sequence[InitialState], paths: dict[int, list[Interpolant]]
) -> None:
    for row, accepted in enumerate(attempt.accepted.tolist()):
        if accepted:
            index = aboard[row]
            paths.setdefault(index, []).append(attempt.interpolant.row(row, len(starts[index].x)))


def _arrival(index: int, state: SolverState, row: int, n_atoms: int, path: list[Interpolant]) -> FinalState:
    x, h = state.x[row, :n_atoms], state.h[row, :n_atoms]
    return FinalState(index, x, h, int(state.nfe[row]), Status(int(state.status[row])), path)
