"""Slots on the device: rows of one size class, and the steps that some of them take together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from enflow.model.flow.ode import dopri5
from enflow.model.flow.ode.dopri5 import SolverState, Step
from enflow.model.flow.velocity import Velocity


class RowStart(NamedTuple):
    """Where a row sets out: x (N, 3), h (N, F), its time, its goal, its tolerances."""

    x: Tensor
    h: Tensor
    t0: float
    t1: float
    rtol: float
    atol: float


class StepFlags(NamedTuple):
    """What the host must know of each row after a step."""

    t: list[float]
    nfe: list[int]
    status: list[int]
    accepted: list[bool]


class InFlightStep(NamedTuple):
    """A step on its way through the device; its `packed` flags are on the host once it has `landed`."""

    step: Step
    packed: Tensor
    landed: torch.cuda.Event | None

    def flags(self) -> StepFlags:
        """What came of it, row by row; waits for it."""
        if self.landed is not None:
            self.landed.synchronize()
        t, nfe, status, accepted = self.packed.tolist()
        return StepFlags(t, [int(n) for n in nfe], [int(s) for s in status], [bool(a) for a in accepted])


class SlotPool:
    """A fixed number of slots for molecules of at most `n_atoms` atoms.

    A device that replays captured shapes gets few of them: with `static`, rows are padded to a power of two with a
    slot that is always vacant, and atoms to the class. Elsewhere a step is cut to its rows and its largest molecule.
    """

    def __init__(
        self,
        velocity: Velocity,
        slots: int,
        n_atoms: int,
        n_features: int,
        dtype: torch.dtype,
        device: torch.device,
        static: bool,
    ) -> None:
        self._velocity = velocity
        self._static = static
        self._state = dopri5.vacant(slots + 1, n_atoms, n_features, dtype, device)
        self._n_atoms = [0] * (slots + 1)
        self._free = list(reversed(range(slots)))
        self._vacant = slots

    def start(self, starts: Sequence[RowStart]) -> list[int]:
        """Give each row a slot and its first derivative; costs two evaluations each."""
        x, h = self._batch([start.x for start in starts]), self._batch([start.h for start in starts])
        n_atoms = torch.tensor([len(start.x) for start in starts] + [0] * (len(x) - len(starts)), device=x.device)
        mask = torch.arange(x.shape[1], device=x.device) < n_atoms[:, None]
        idle = [(0.0, 0.0, 1.0, 1.0)] * (len(x) - len(starts))
        scalars = x.new_tensor([start[2:] for start in starts] + idle).unbind(1)
        return self._seat(dopri5.init(self._velocity, x, h, mask, *scalars), [len(start.x) for start in starts])

    def resume(self, saved: SolverState) -> int:
        """Give a row that was read from a pool a slot again."""
        dtype, device = self._state.x.dtype, self._state.x.device
        moved = SolverState(*(f.to(device, dtype if f.is_floating_point() else f.dtype) for f in saved))
        return self._seat(moved, [int(saved.mask.sum())])[0]

    def step(self, slots: Sequence[int], max_steps: int) -> InFlightStep:
        """Let the rows of these slots attempt one step; the answer's rows are in their order, then padding."""
        index = self._index(slots)
        width = self._state.x.shape[1] if self._static else max(self._n_atoms[slot] for slot in slots)
        step = dopri5.step(self._velocity, dopri5.select(self._state, index, width), max_steps)
        self._state = dopri5.place(self._state, index, step.state)
        state = step.state
        packed = torch.stack([f.to(torch.float64) for f in (state.t, state.nfe, state.status, step.accepted)])
        if packed.device.type != "cuda":
            return InFlightStep(step, packed, None)
        # Only a copy to pinned memory does not wait for the device.
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True).copy_(packed, non_blocking=True)
        landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
        landed.record()
        return InFlightStep(step, host, landed)

    def read(self, slots: Sequence[int]) -> list[SolverState]:
        """The states of these rows on the host, each without padding."""
        rows = SolverState(*(field.cpu() for field in dopri5.select(self._state, self._index(slots))))
        return [
            SolverState(*(f[i : i + 1] if f.ndim == 1 else f[i : i + 1, : self._n_atoms[slot]] for f in rows))
            for i, slot in enumerate(slots)
        ]

    def release(self, slot: int) -> None:
        """Free a slot; what stands in it is overwritten by the next row."""
        self._free.append(slot)

    def _seat(self, state: SolverState, n_atoms: Sequence[int]) -> list[int]:
        slots = [self._free.pop() for _ in n_atoms]
        for slot, n in zip(slots, n_atoms, strict=True):
            self._n_atoms[slot] = n
        index = torch.tensor(slots + [self._vacant] * (len(state.t) - len(slots)), device=state.t.device)
        self._state = dopri5.place(self._state, index, state)
        return slots

    def _index(self, slots: Sequence[int]) -> Tensor:
        padding = _rows(len(slots)) - len(slots) if self._static else 0
        return torch.tensor([*slots, *[self._vacant] * padding], device=self._state.t.device)

    def _batch(self, rows: Sequence[Tensor]) -> Tensor:
        width = self._state.x.shape[1] if self._static else max(len(row) for row in rows)
        count = _rows(len(rows)) if self._static else len(rows)
        batch = torch.zeros(count, width, rows[0].shape[-1], dtype=self._state.x.dtype)
        for target, row in zip(batch, rows, strict=False):
            target[: len(row)] = row
        return batch.to(self._state.x.device)


def _rows(n: int) -> int:
    return 1 << (n - 1).bit_length()
