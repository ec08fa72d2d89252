"""The requests inside the engine: their samples, the rows of the samples, and the events for the client."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from enflow.model.flow.estimate import Draw
from enflow.model.flow.likelihood import DrawState
from enflow.model.flow.ode.tolerances import accuracy
from enflow.model.flow.refinement import refinement_times
from enflow.service.engine.batch_key import BatchKey, Lane
from enflow.service.engine.cost_model import SMALL_REQUEST
from enflow.service.engine.queues import Row
from enflow.service.engine.stats import StatsCounter
from enflow.service.protocol.events import Done, Encoded, Event, Failed, Frame, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EngineVariationRequest,
    EstimatorOptions,
    Structure,
    pass_evaluations,
    sample_costs,
)
from enflow.service.protocol.status import SavedRow, Stats

Generation = EngineSampleRequest | EngineDecodeRequest | EngineVariationRequest
"""A request whose paths lead to t = 1."""


@dataclass(eq=False)
class MoleculeState:
    """A sample of a request: its rows and their results so far."""

    index: int
    n_atoms: int = 0
    rows: "list[RowState]" = field(default_factory=list)
    nfe: int = 0
    draws: list[Draw] = field(default_factory=list)
    isolation: int = 0
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def begun(self) -> bool:
        """True after the first step of a row."""
        return any(row.begun or row.state != "waiting" for row in self.rows)


@dataclass(eq=False)
class RequestState:
    """A request in the engine and its unfinished samples, by index.

    Attributes:
        request: the request as the client sent it.
        arrived: monotonic seconds.
        started: monotonic seconds of the first step; None = no step yet.
        nfe: evaluations of the finished samples.
        molecules: the unfinished samples.
    """

    request: EngineRequest
    arrived: float
    started: float | None = None
    nfe: int = 0
    molecules: dict[int, MoleculeState] = field(default_factory=dict)

    @property
    def lane(self) -> Lane:
        """The lane of the first step of every sample."""
        if self.request.background:
            return "background"
        return "sample" if isinstance(self.request, Generation) else "likelihood"

    @cached_property
    def work(self) -> float:
        """The expected work on the samples that this engine received, in pairs of atoms times evaluations."""
        costs = sample_costs(self.request)
        return sum(costs[index - self.request.first_index] for index in self.molecules)

    @cached_property
    def passes(self) -> list[float]:
        """The work on each pass of a sample, in any unit."""
        return pass_evaluations(self.request) if isinstance(self.request, EngineSampleRequest) else [1.0]

    @property
    def small(self) -> bool:
        """True where the request goes before large ones."""
        return self.work <= SMALL_REQUEST

    @property
    def scoring(self) -> EstimatorOptions | None:
        """The options of the likelihood; None if the samples are not scored."""
        return self.request.options if isinstance(self.request, EngineLikelihoodRequest) else None

    def refinements_left(self, number: int) -> int:
        """Return the number of refinements of a sample that follow the one of this number; 0 = the first pass."""
        return self.request.refinements - number if isinstance(self.request, EngineSampleRequest) else 0

    @cached_property
    def frame_times(self) -> list[float]:
        """The times of the frames, evenly spaced from 0 to 1; a single frame shows t = 1."""
        count = self.request.frames if isinstance(self.request, EngineSampleRequest | EngineDecodeRequest) else 0
        return [1.0] if count == 1 else np.linspace(0.0, 1.0, count).tolist()


@dataclass(eq=False, kw_only=True)
class RowState(Row):
    """A row: one ODE trajectory, followed in a likelihood by the quadrature of the divergence along it.

    Attributes:
        slot: the row's slot on the device; None = not on the device.
        t: the time that the solver has reached.
        nfe: evaluations of the velocity so far.
        saved: the state of an earlier engine from which the row continues.
        frames: the frames passed so far.
        draw_state: the draw of a likelihood that follows the path.
        parent: the molecule that a refinement begins with; `draw` is the number of the refinement, from 1.
    """

    batch_key: BatchKey
    request_state: RequestState
    molecule: MoleculeState
    slot: int | None = None
    t: float = 0.0
    nfe: int = 0
    saved: SavedRow | None = None
    frames: list[Frame] = field(default_factory=list)
    draw_state: DrawState | None = None
    parent: Structure | None = None

    @property
    def refinements_left(self) -> int:
        """The number of refinements that follow this row."""
        return self.request_state.refinements_left(self.draw)

    @property
    def first_t(self) -> float:
        """The time at which the path to t = 1 begins."""
        request = self.request_state.request
        if isinstance(request, EngineVariationRequest):
            return 1.0 - request.strength
        times = refinement_times(request.refinements) if isinstance(request, EngineSampleRequest) else []
        return [0.0, *times][self.draw]

    @property
    def share(self) -> float:
        """The part of the work on the sample that is done; the path is half of the work of a likelihood."""
        if isinstance(self.request_state.request, EngineLikelihoodRequest | EngineEncodeRequest):
            return (1.0 - self.t) * (0.5 if self.draw_state else 1.0)
        passes, start = self.request_state.passes, self.first_t
        end = min(1.0, accuracy(self.refinements_left).ending.straight_from)
        now = passes[self.draw] * min(1.0, (self.t - start) / (end - start))
        return (sum(passes[: self.draw]) + now) / sum(passes)

    def refine(self, before: "RowState", parent: Structure) -> None:
        """Continue with the molecule at the end of another row, and with its frames up to the time of this one."""
        self.parent = parent
        self.frames = [frame for frame in before.frames if frame.t < self.first_t]


def new_rows(
    request_state: RequestState, molecule: MoleculeState, key: BatchKey, draws: int, cost: float
) -> list[RowState]:
    """Return the next rows of a sample, one for each draw of a likelihood, or one for the next pass."""
    return [
        RowState(
            request_id=request_state.request.id,
            index=molecule.index,
            draw=draw,
            isolation=molecule.isolation,
            begun=bool(molecule.rows),
            lane=key.lane,
            batch_key=key,
            cost=cost,
            request_state=request_state,
            molecule=molecule,
        )
        for draw in range(len(molecule.rows), len(molecule.rows) + draws)
    ]


class RequestTable:
    """The requests in the engine, and the events that the client has not received yet.

    Every sample has one answer. `Done` is the last event of a request.
    """

    def __init__(self) -> None:
        self.stats = StatsCounter()
        self._states: dict[str, RequestState] = {}
        self._events: list[Event] = []

    def __len__(self) -> int:
        return len(self._states)

    @property
    def idle(self) -> bool:
        """True if there is no request and no event."""
        return not (self._states or self._events)

    def stats_now(self, occupied: int, slots: int, device: torch.device) -> Stats:
        """Return the counters with the number of molecules that have begun, and of those that wait."""
        molecules = [molecule for state in self._states.values() for molecule in state.molecules.values()]
        running = sum(molecule.begun for molecule in molecules)
        return self.stats.stats(
            waiting=len(molecules) - running,
            running=running,
            occupied=occupied,
            slots=slots,
            requests=len(self),
            device=device,
        )

    def unfinished(self) -> Iterator[tuple[EngineRequest, frozenset[int]]]:
        """Yield each request with the indices of its finished samples."""
        for state in self._states.values():
            yield state.request, frozenset(state.request.indices) - state.molecules.keys()

    def add(self, request: EngineRequest, answered: Collection[int] = ()) -> RequestState:
        """Add a request without the samples that are answered already.

        Raises:
            ValueError: a request with this id was added before.
        """
        if request.id in self._states:
            raise ValueError(f"found request {request.id!r} twice, expected each id once")
        state = self._states[request.id] = RequestState(request, time.perf_counter())
        state.molecules = {index: MoleculeState(index) for index in request.indices if index not in answered}
        return state

    def get(self, request_id: str) -> RequestState | None:
        """Return the request with this id, or None."""
        return self._states.get(request_id)

    def emit(self, event: Event) -> None:
        """Add an event for the client."""
        self._events.append(event)

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def answer(
        self, request_state: RequestState, molecule: MoleculeState, event: Sampled | Scored | Encoded | Failed
    ) -> None:
        """Finish a sample with its answer, and with the last sample the request."""
        self._events.append(event)
        self.stats.record_answer(event, molecule.nfe)
        request_state.nfe += molecule.nfe
        del request_state.molecules[molecule.index]
        self.close_if_done(request_state)

    def close_if_done(self, state: RequestState) -> None:
        """Remove the request and emit `Done` if all its samples are finished."""
        if state.molecules or self._states.pop(state.request.id, None) is None:
            return
        now = time.perf_counter()
        started = state.started or now
        self._events.append(Done(state.request.id, 1e3 * (started - state.arrived), 1e3 * (now - started), state.nfe))

    def clear(self) -> None:
        """Remove all requests."""
        self._states.clear()
