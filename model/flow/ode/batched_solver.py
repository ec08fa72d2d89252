"""Continuous batching: rows enter one adaptive solver when there is room, and leave it when they have finished."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, Method, method_for
from enflow.model.flow.ode.size_buckets import bucketed
from enflow.model.flow.ode.solver_state import SolverState, Status, concatenate, select
from enflow.model.flow.ode.step_control import MAX_STEPS, Step
from enflow.model.flow.ode.tolerances import FINE, Ending
from enflow.model.flow.velocity import Velocity

BATCH_PAIRS = {"cpu": 24000, "cuda": 1 << 18}
"""The largest number of pairs of atoms in a batch: several size buckets for a CPU core, and enough to fill a GPU. One
bucket of mixed sizes alone, which rows enter and leave, was padded to 1.38 times its own pairs."""


class InitialState(NamedTuple):
    """The initial value of one molecule in flow space, without padding, and times, tolerances and end of its solve."""

    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]
    t0: float
    t1: float
    rtol: float
    atol: float
    ending: Ending = FINE


@dataclass(frozen=True, eq=False)
class FinalState:
    """The final state of one molecule.

    Attributes:
        index: the index of its initial state.
        x, h: positions and features, without padding.
        nfe: evaluations of the velocity.
        status: the status of the solver.
        path: the accepted steps, one row each without padding, if they were recorded.
    """

    index: int
    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]
    nfe: int
    status: Status
    path: list[Interpolant]

    @property
    def mask(self) -> Bool[Tensor, "1 N"]:
        """The mask of the molecule as a batch of one."""
        return torch.ones(1, len(self.x), dtype=torch.bool, device=self.x.device)


def solve_batched(
    velocity: Velocity, starts: Sequence[InitialState], record: bool = False, max_steps: int = MAX_STEPS
) -> Iterator[FinalState]:
    """Yield the final state of every molecule, in the order in which they finish.

    The largest molecules enter first and neighbours have similar sizes. So padding is small, and the memory does not
    grow with the number of molecules. One method solves all of them: Adams' where it suits every one
    (`methods.method_for`). Otherwise the result of a molecule does not depend on the rest of the batch.

    Args:
        velocity: the dynamics.
        starts: the initial states.
        record: keep the accepted steps of every molecule.
        max_steps: the largest number of attempted steps per molecule.
    """
    velocity = bucketed(velocity)
    methods = {method_for(start.t0, start.t1, min(start.rtol, start.atol)) for start in starts}
    method = ADAMS if methods == {ADAMS} else DORMAND_PRINCE
    batch = _Batch(starts, method, sorted(range(len(starts)), key=lambda index: len(starts[index].x)))
    while batch.waiting or batch.active:
        batch.admit(velocity)
        assert batch.state is not None, "there is an active row"
        attempt = method.step(velocity, batch.state, max_steps)
        if record:
            batch.record(attempt)
        yield from batch.retire(attempt.state)


@dataclass(eq=False)
class _Batch:
    """The rows of a running solve.

    Attributes:
        starts: all initial states.
        method: the method that solves them.
        waiting: indices of the molecules that have not started; the last one is the next.
        active: indices of the molecules in the rows of `state`.
        paths: the accepted steps of active molecules.
    """

    starts: Sequence[InitialState]
    method: Method
    waiting: list[int]
    active: list[int] = field(default_factory=list)
    paths: dict[int, list[Interpolant]] = field(default_factory=dict)
    state: SolverState | None = None

    def admit(self, velocity: Velocity) -> None:
        """Start as many waiting molecules as there is room for."""
        admitted = [self.waiting.pop() for _ in range(min(self._room(), len(self.waiting)))]
        if not admitted:
            return
        fresh = _initial(velocity, self.method, [self.starts[index] for index in admitted])
        self.state = concatenate(self.state, fresh) if self.state is not None and self.active else fresh
        self.active += admitted

    def record(self, attempt: Step) -> None:
        """Keep the accepted steps."""
        for row, accepted in enumerate(attempt.accepted.tolist()):
            if accepted:
                index = self.active[row]
                self.paths.setdefault(index, []).append(attempt.interpolant.row(row, self._n_atoms(index)))

    def retire(self, state: SolverState) -> Iterator[FinalState]:
        """Yield the molecules that have stopped, then keep the rows of the others."""
        status = state.status.tolist()
        for row, index in enumerate(self.active):
            if status[row] != Status.RUNNING:
                n_atoms = self._n_atoms(index)
                # Copies: a view would keep the states of the whole batch.
                x, h = (part[row, :n_atoms].clone() for part in (state.x, state.h))
                yield FinalState(index, x, h, int(state.nfe[row]), Status(status[row]), self.paths.pop(index, []))
        running = [row for row, code in enumerate(status) if code == Status.RUNNING]
        self.active = [self.active[row] for row in running]
        size = max(map(self._n_atoms, self.active), default=0)
        self.state = select(state, torch.tensor(running, dtype=torch.int64, device=state.t.device), size)

    def _room(self) -> int:
        """Return the number of rows that may enter; 0 below a quarter of the capacity, since a start has a cost."""
        largest = max(map(self._n_atoms, [*self.active, *self.waiting[-1:]]), default=1)
        device = self.starts[0].x.device.type
        room = max(1, BATCH_PAIRS.get(device, BATCH_PAIRS["cpu"]) // largest**2) - len(self.active)
        return 0 if self.active and room <= len(self.active) // 3 else max(room, 0)

    def _n_atoms(self, index: int) -> int:
        return len(self.starts[index].x)


def _initial(velocity: Velocity, method: Method, starts: Sequence[InitialState]) -> SolverState:
    x = pad_sequence([start.x for start in starts], batch_first=True)
    h = pad_sequence([start.h for start in starts], batch_first=True)
    n_atoms = torch.tensor([len(start.x) for start in starts], device=x.device)
    mask = torch.arange(x.shape[1], device=x.device) < n_atoms[:, None]
    numbers = x.new_tensor([(*start[2:6], *start.ending) for start in starts]).unbind(1)
    return method.init(velocity, x, h, mask, numbers[:2], numbers[2:4], numbers[4:])
