"""A work in the engine, taken apart: its molecules, and their rows."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from enflow.model.flow.estimate import Draw
from enflow.model.flow.likelihood import DrawState
from enflow.service.engine.batch_key import BatchKey, Lane
from enflow.service.engine.scheduler import Row
from enflow.service.engine.stats import StatsCounter
from enflow.service.protocol.events import Done, Encoded, Event, Failed, Frame, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EstimatorOptions,
)
from enflow.service.protocol.status import SavedRow


@dataclass(eq=False)
class MoleculeState:
    """A molecule of a work: its rows on their way, and what they have brought so far."""

    index: int
    n_atoms: int = 0
    rows: "list[RowState]" = field(default_factory=list)
    nfe: int = 0
    sampled: Sampled | None = None
    draws: list[Draw] = field(default_factory=list)
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(eq=False)
class RequestState:
    """A work in the engine: when it came and began (monotonic seconds), what it has cost, the molecules to come."""

    work: EngineRequest
    came: float
    began: float | None = None
    nfe: int = 0
    molecules: dict[int, MoleculeState] = field(default_factory=dict)

    @property
    def lane(self) -> Lane:
        """Where its molecules begin."""
        return "sample" if isinstance(self.work, EngineSampleRequest | EngineDecodeRequest) else "likelihood"

    @property
    def scoring(self) -> EstimatorOptions | None:
        """How its molecules are scored, if they are."""
        if isinstance(self.work, EngineLikelihoodRequest):
            return self.work.options
        return self.work.nll if isinstance(self.work, EngineSampleRequest) else None

    @property
    def frame_times(self) -> list[float]:
        """When frames are taken: evenly spaced from 0 to 1; a single one shows the end."""
        count = self.work.frames if isinstance(self.work, EngineSampleRequest | EngineDecodeRequest) else 0
        return [1.0] if count == 1 else np.linspace(0.0, 1.0, count).tolist()


@dataclass(eq=False, kw_only=True)
class RowState(Row):
    """A row: from base to data or back, and for a likelihood on to the divergence of its path."""

    group: BatchKey
    job: RequestState
    molecule: MoleculeState
    slot: int | None = None
    t: float = 0.0
    nfe: int = 0
    saved: SavedRow | None = None
    frames: list[Frame] = field(default_factory=list)
    score: DrawState | None = None


class RequestTable:
    """Enter a work, answer its molecules one by one; `told` has the events since the last call, `Done` last."""

    def __init__(self) -> None:
        self.tally = StatsCounter()
        self._jobs: dict[str, RequestState] = {}
        self._events: list[Event] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def idle(self) -> bool:
        """Nobody waits, and there is nothing to tell."""
        return not (self._jobs or self._events)

    @property
    def works(self) -> Iterator[tuple[EngineRequest, frozenset[int]]]:
        """Each work with the indices of its molecules that are answered."""
        for job in self._jobs.values():
            first = job.work.first_index
            yield job.work, frozenset(range(first, first + len(job.work))) - job.molecules.keys()

    def enter(self, work: EngineRequest, answered: Collection[int] = ()) -> RequestState:
        """Take a work, but for the molecules already answered.

        Raises:
            ValueError: a work of that id is here.
        """
        if work.id in self._jobs:
            raise ValueError(f"found work {work.id!r} twice, expected each id once")
        job = self._jobs[work.id] = RequestState(work, time.perf_counter())
        indices = range(work.first_index, work.first_index + len(work))
        job.molecules = {index: MoleculeState(index) for index in indices if index not in answered}
        return job

    def job(self, work: str) -> RequestState | None:
        """The work of that id, if it is here."""
        return self._jobs.get(work)

    def tell(self, event: Event) -> None:
        """Note what happened on the way."""
        self._events.append(event)

    def told(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def answer(self, job: RequestState, molecule: MoleculeState, event: Sampled | Scored | Encoded | Failed) -> None:
        """Note what became of a molecule, and with the last of a work that it is done."""
        self._events.append(event)
        self.tally.answer(event, molecule.nfe)
        job.nfe += molecule.nfe
        del job.molecules[molecule.index]
        self.close_if_done(job)

    def close_if_done(self, job: RequestState) -> None:
        """A work without molecules to come has ended."""
        if job.molecules or self._jobs.pop(job.work.id, None) is None:
            return
        now = time.perf_counter()
        began = job.began or now
        self._events.append(Done(job.work.id, 1e3 * (began - job.came), 1e3 * (now - began), job.nfe))

    def clear(self) -> None:
        """Forget all works."""
        self._jobs.clear()
