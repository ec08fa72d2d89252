"""The model runner: it holds the rows on the device and runs their solver steps."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, Method
from enflow.model.flow.ode.solver_state import SolverState
from enflow.model.flow.velocity import Velocity
from enflow.service.engine.batch_key import BatchKey, StepKind
from enflow.service.engine.config import LANES, EngineConfig
from enflow.service.engine.cuda_graphs import CudaGraphs
from enflow.service.engine.flow_adapter import FlowAdapter
from enflow.service.engine.requests import RowState
from enflow.service.engine.slots import InFlightStep, RowStart, SlotPool, row_buckets
from enflow.service.protocol.status import RowKey, SavedRow


class ModelRunner:
    """A pool of slots for each batch key, and the steps in flight.

    Args:
        adapter: the model.
        config: the size classes, the slots of each pool, `max_steps`, and `lag`, the number of steps that may be in
            flight after `collect`.

    Attributes:
        velocity: the velocity that moves the rows; on a GPU it replays captured graphs.
        check_rows: the rows of the largest size class for which the velocity is certainly fast: one on a CPU.
    """

    def __init__(self, adapter: FlowAdapter, config: EngineConfig) -> None:
        static = adapter.device.type == "cuda"
        velocities = (adapter.velocity, adapter.fine_velocity) if static else ()
        self._graphs = [CudaGraphs(velocity) for velocity in velocities]
        self.velocity: Velocity = self._graphs[0] if static else adapter.velocity
        fine_velocity = self._graphs[1] if static else adapter.fine_velocity
        buckets = {size: row_buckets(config.step_rows(size)) if static else () for size in config.sizes}
        self.check_rows = min(buckets[config.sizes[-1]], default=1)
        self._adapter = adapter
        kinds: dict[StepKind, tuple[Velocity, Method, torch.dtype]] = {
            "adams": (self.velocity, ADAMS, adapter.dtype),
            "path": (self.velocity, DORMAND_PRINCE, adapter.dtype),
            "fine": (fine_velocity, DORMAND_PRINCE, torch.float64),
        }
        self._pools = {
            BatchKey(lane, kind, size): SlotPool(
                kind_velocity, method, config.slots, size, adapter.n_features, dtype, adapter.device, buckets[size]
            )
            for lane in LANES
            for kind, (kind_velocity, method, dtype) in kinds.items()
            for size in config.sizes
        }
        self._max_steps, self._lag = config.max_steps, config.lag
        self._in_flight: deque[tuple[list[RowState], InFlightStep]] = deque()
        if static:
            shapes = [(rows, size) for size in config.sizes for rows in buckets[size]]
            self._graphs[0].capture(shapes, adapter.n_features, adapter.dtype)

    def submit(self, rows: list[RowState], starts: Mapping[RowState, RowStart]) -> None:
        """Submit a step with rows of one batch key.

        Args:
            rows: rows on the device, rows with a saved state, and rows in `starts`.
            starts: the initial values of rows that begin.
        """
        pool = self._pools[rows[0].batch_key]
        for row in rows:
            if row.slot is None and row.saved is not None:
                state = SolverState(*(torch.from_numpy(np.asarray(field)) for field in row.saved.state))
                row.slot, row.frames = pool.resume(state), list(row.saved.frames)
        if starts:
            for row, slot in zip(starts, pool.start(list(starts.values())), strict=True):
                row.slot = slot
        slots = [row.slot for row in rows if row.slot is not None]
        self._in_flight.append((rows, pool.step(slots, self._max_steps)))
        for row in rows:
            row.in_flight = True

    def collect(self, *, everything: bool) -> Iterator[tuple[list[RowState], InFlightStep]]:
        """Yield the rows and results of steps in flight, oldest first.

        Args:
            everything: False leaves the newest `lag` steps in flight.
        """
        while len(self._in_flight) > (0 if everything else self._lag):
            rows, step = self._in_flight.popleft()
            for row in rows:
                row.in_flight = False
            yield rows, step

    @property
    def graphs(self) -> int:
        """The number of captured graphs."""
        return sum(graphs.captured for graphs in self._graphs)

    def evaluate(self, rows: int, size: int) -> None:
        """Evaluate the velocity of random molecules in a batch as steps with these rows have, and wait for it."""
        pool = self._pools[BatchKey("sample", "adams", size)]
        self._adapter.evaluate(self.velocity, pool.padded_rows(rows), size)

    def rows_in_flight(self) -> list[RowState]:
        """Return the rows of all steps in flight."""
        return [row for rows, _ in self._in_flight for row in rows]

    def free_memory(self) -> None:
        """Give up memory that can be allocated again: captured graphs, and torch's cache on a GPU."""
        for graphs in self._graphs:
            graphs.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def release(self, row: RowState) -> None:
        """Free the slot of a row, if it has one."""
        if row.slot is not None:
            self._pools[row.batch_key].release(row.slot)
            row.slot = None

    def save(self, rows: Sequence[RowState]) -> dict[RowKey, SavedRow]:
        """Return the states of those rows that have a slot; `submit` of another engine continues from them."""
        saved = {}
        slots: dict[BatchKey, dict[RowState, int]] = {}
        for row in rows:
            if row.slot is not None:
                slots.setdefault(row.batch_key, {})[row] = row.slot
        for key, of_key in slots.items():
            for row, state in zip(of_key, self._pools[key].read(list(of_key.values())), strict=True):
                saved[row.key] = SavedRow(tuple(field.numpy() for field in state), tuple(row.frames))
        return saved
