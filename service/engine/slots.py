"""Slots on the device: the solver states of rows with one batch key."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from enflow.model.flow.ode import solver_state
from enflow.model.flow.ode.methods import Method
from enflow.model.flow.ode.solver_state import SolverState
from enflow.model.flow.ode.step_control import Step
from enflow.model.flow.ode.tolerances import FINE, Ending
from enflow.model.flow.velocity import Velocity
from enflow.service.engine.cost_model import STAGES


class RowStart(NamedTuple):
    """The initial value of a row: x (N, 3), h (N, F), the first and the last time, the tolerances, and its end."""

    x: Tensor
    h: Tensor
    t0: float
    t1: float
    rtol: float
    atol: float
    ending: Ending = FINE


class StepFlags(NamedTuple):
    """The facts about each row that the host reads after an attempt of the solver."""

    t: list[float]
    nfe: list[int]
    status: list[int]
    accepted: list[bool]


class InFlightStep(NamedTuple):
    """A step that the device may still compute: one attempt of the solver or several.

    Attributes:
        attempts: the results in order, on the device.
        packed, x, h, mask: the flags and the rows, on the host once `copied` has happened: to read finished rows from
            the device would wait for the steps that were submitted later.
        copied: None on a CPU, where all is there at once.
    """

    attempts: list[Step]
    packed: Tensor
    x: Tensor
    h: Tensor
    mask: Tensor
    copied: torch.cuda.Event | None

    def flags(self) -> list[StepFlags]:
        """Wait for the step and return the flags of each attempt, row by row."""
        if self.copied is not None:
            self.copied.synchronize()
        return [
            StepFlags(t, [int(n) for n in nfe], [int(s) for s in status], [bool(a) for a in accepted])
            for t, nfe, status, accepted in self.packed.tolist()
        ]

    def rows(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions, features and mask of some rows on the host; call `flags` before."""
        index = torch.tensor(positions)
        return self.x[index], self.h[index], self.mask[index]


class SlotPool:
    """A fixed number of slots for rows of one batch key.

    Args:
        velocity: the velocity that moves the rows.
        method: the method that moves them.
        slots: the number of slots.
        n_atoms: the size class.
        n_features: features per atom.
        dtype, device: of the states.
        buckets: the numbers of rows, ascending, to which a step is padded with an empty slot, while its atoms are
            padded to the size class: captured graphs have few shapes. Without buckets a step is cut to its rows and to
            its largest molecule.
    """

    def __init__(
        self,
        velocity: Velocity,
        method: Method,
        slots: int,
        n_atoms: int,
        n_features: int,
        dtype: torch.dtype,
        device: torch.device,
        buckets: Sequence[int] = (),
    ) -> None:
        self._velocity, self._method = velocity, method
        self._buckets = buckets
        self._state = solver_state.empty(slots + 1, n_atoms, n_features, dtype, device, method.orders)
        self._n_atoms = [0] * (slots + 1)
        self._free = list(reversed(range(slots)))
        self._empty = slots

    def start(self, starts: Sequence[RowStart]) -> list[int]:
        """Give each row a slot and evaluate its first derivative; this takes one or two evaluations each."""
        x, h = self._batch([start.x for start in starts]), self._batch([start.h for start in starts])
        missing = len(x) - len(starts)
        n_atoms = torch.tensor([len(start.x) for start in starts] + [0] * missing)
        mask = self._to_device(torch.arange(x.shape[1]) < n_atoms[:, None])
        padding = [(0.0, 0.0, 1.0, 1.0, *FINE)] * missing
        numbers = [(*start[2:6], *start.ending) for start in starts] + padding
        scalars = self._to_device(torch.tensor(numbers, dtype=x.dtype)).unbind(1)
        state = self._method.init(self._velocity, x, h, mask, scalars[:2], scalars[2:4], scalars[4:])
        return self._assign(state, [len(start.x) for start in starts])

    def resume(self, saved: SolverState) -> int:
        """Give a slot to a row that `read` returned."""
        dtype = self._state.x.dtype
        moved = SolverState(*(self._to_device(f.to(dtype) if f.is_floating_point() else f) for f in saved))
        return self._assign(moved, [int(saved.mask.sum())])[0]

    def step(self, slots: Sequence[int], max_steps: int) -> InFlightStep:
        """Submit one step of the rows of these slots: as many attempts of the method as make six evaluations.

        On a CPU the step ends when a row stops, so that no row is evaluated in vain. The result has the rows in this
        order, then padding.
        """
        index = self._index(slots)
        width = self._state.x.shape[1] if self._buckets else max(self._n_atoms[slot] for slot in slots)
        start, attempts = solver_state.select(self._state, index, width), list[Step]()
        state = start
        for _ in range(STAGES // self._method.evaluations):
            attempts.append(self._method.step(self._velocity, state, max_steps))
            state = attempts[-1].state
            if state.t.device.type == "cpu" and not torch.equal(state.running, start.running):
                break
        self._state = solver_state.insert(self._state, index, state)
        packed = torch.stack([_packed_flags(attempt) for attempt in attempts])
        outcome = packed, state.x, state.h, state.mask
        if packed.device.type != "cuda":
            return InFlightStep(attempts, *outcome, copied=None)
        packed, x, h, mask = map(_to_host, outcome)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return InFlightStep(attempts, packed, x, h, mask, copied)

    def padded_rows(self, n: int) -> int:
        """Return the rows of a step with `n` rows, padding included."""
        return next((bucket for bucket in self._buckets if bucket >= n), n)

    def read(self, slots: Sequence[int]) -> list[SolverState]:
        """Return the states of these rows on the host, each without padding."""
        rows = SolverState(*(field.cpu() for field in solver_state.select(self._state, self._index(slots))))
        return [
            SolverState(*(f[i : i + 1] if f.ndim == 1 else f[i : i + 1, : self._n_atoms[slot]] for f in rows))
            for i, slot in enumerate(slots)
        ]

    def release(self, slot: int) -> None:
        """Free a slot; the next row overwrites its state."""
        self._free.append(slot)

    def _assign(self, state: SolverState, n_atoms: Sequence[int]) -> list[int]:
        slots = [self._free.pop() for _ in n_atoms]
        for slot, n in zip(slots, n_atoms, strict=True):
            self._n_atoms[slot] = n
        index = self._to_device(torch.tensor(slots + [self._empty] * (len(state.t) - len(slots))))
        self._state = solver_state.insert(self._state, index, state)
        return slots

    def _index(self, slots: Sequence[int]) -> Tensor:
        padding = self.padded_rows(len(slots)) - len(slots)
        return self._to_device(torch.tensor([*slots, *[self._empty] * padding]))

    def _batch(self, rows: Sequence[Tensor]) -> Tensor:
        width = self._state.x.shape[1] if self._buckets else max(len(row) for row in rows)
        batch = torch.zeros(self.padded_rows(len(rows)), width, rows[0].shape[-1], dtype=self._state.x.dtype)
        for target, row in zip(batch, rows, strict=False):
            target[: len(row)] = row
        return self._to_device(batch)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the host; a copy from memory that is not pinned would wait for the device."""
        device = self._state.x.device
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def row_buckets(max_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows that captured graphs have, ascending: an eighth, a quarter, half and all of a step."""
    return tuple(sorted({math.ceil(max_rows / part) for part in (8, 4, 2, 1)}))


def _packed_flags(attempt: Step) -> Tensor:
    state = attempt.state
    return torch.stack([f.to(torch.float64) for f in (state.t, state.nfe, state.status, attempt.accepted)])


def _to_host(tensor: Tensor) -> Tensor:
    """Begin to copy a tensor to pinned memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
