"""The rows on the device: slots by lane and size class, and the steps on their way."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from enflow.model.flow.ode.dopri5 import SolverState
from enflow.model.flow.velocity import Velocity
from enflow.service.engine.batch_key import BatchKey, Lane, StepKind
from enflow.service.engine.cuda_graphs import CudaGraphs
from enflow.service.engine.flow_adapter import FlowAdapter
from enflow.service.engine.requests import RowState
from enflow.service.engine.slots import InFlightStep, RowStart, SlotPool
from enflow.service.protocol.status import RowKey, SavedRow


class ModelRunner:
    """Pools, and flights that have not landed.

    Args:
        translator: whose velocity moves the rows.
        lanes, sizes: a pool for each pair of them, and another for paths in double precision.
        slots: of each pool.
        max_steps: attempts after which a row is given up.
        lag: flights that may be under way when the caller goes on.
    """

    def __init__(
        self,
        translator: FlowAdapter,
        lanes: Sequence[Lane],
        sizes: Sequence[int],
        slots: int,
        max_steps: int,
        lag: int,
    ) -> None:
        t, static = translator, translator.device.type == "cuda"
        self._replays = [CudaGraphs(velocity) for velocity in (t.velocity, t.fine_velocity)] if static else []
        velocity, fine = self._replays or (t.velocity, t.fine_velocity)
        ways: dict[StepKind, tuple[Velocity, torch.dtype]] = {
            "path": (velocity, t.dtype),
            "fine": (fine, torch.float64),
        }
        self._pools = {
            BatchKey(lane, kind, size): SlotPool(moved_by, slots, size, t.n_features, dtype, t.device, static)
            for lane in lanes
            for kind, (moved_by, dtype) in ways.items()
            for size in sizes
        }
        self._max_steps, self._lag = max_steps, lag
        self._flights: deque[tuple[list[RowState], InFlightStep]] = deque()

    def launch(self, rows: list[RowState], starts: Mapping[RowState, RowStart]) -> None:
        """Let rows of one pool attempt a step; those in `starts` set out with it, those saved go on from there."""
        pool = self._pool(rows[0])
        for row in rows:
            if row.slot is None and row.saved is not None:
                state = SolverState(*(torch.from_numpy(np.asarray(field)) for field in row.saved.state))
                row.slot, row.frames = pool.resume(state), list(row.saved.frames)
        if starts:
            for row, slot in zip(starts, pool.start(list(starts.values())), strict=True):
                row.slot = slot
        slots = [row.slot for row in rows if row.slot is not None]
        self._flights.append((rows, pool.step(slots, self._max_steps)))

    def landed(self, *, all_of_them: bool) -> Iterator[tuple[list[RowState], InFlightStep]]:
        """The flights whose flags are due, oldest first."""
        while len(self._flights) > (0 if all_of_them else self._lag):
            yield self._flights.popleft()

    def shrink(self) -> None:
        """Give back what memory can be had again: captured graphs, and on a GPU what torch keeps for later."""
        for replay in self._replays:
            replay.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def vacate(self, row: RowState) -> None:
        """Take a row off the device, if it is there."""
        if row.slot is not None:
            self._pool(row).release(row.slot)
            row.slot = None

    def save(self, rows: Sequence[RowState]) -> dict[RowKey, SavedRow]:
        """Where these rows stand, for `launch` elsewhere; those without a slot stand nowhere."""
        saved = {}
        for group, pool in self._pools.items():
            here = {row: row.slot for row in rows if row.slot is not None and row.group == group}
            for row, state in zip(here, pool.read(list(here.values())) if here else (), strict=True):
                saved[row.key] = SavedRow(tuple(field.numpy() for field in state), tuple(row.frames))
        return saved

    def _pool(self, row: RowState) -> SlotPool:
        return self._pools[row.group]
