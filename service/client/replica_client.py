"""The client of many engines: a work is dealt out to replicas in portions, and what a replica loses another one does.

A molecule is fixed by its seed and index, so that it does not matter which replica does it, nor how often it is begun:
its caller hears of it once.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from enflow.model.errors import EnflowError
from enflow.service.client.admission import AdmissionController
from enflow.service.client.request_tracker import EventQueue, RequestTracker
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason, Sampled
from enflow.service.protocol.requests import EngineDecodeRequest, EngineRequest, EngineSampleRequest
from enflow.service.protocol.status import Health, Overloaded, Stats, Unavailable

PORTION = 16, 256
"""Molecules of a portion, at least and at most. Fewer rows waste a step (bench_engine: 13 ms a molecule at 16 rows, 34
at one), more of them keep a replica that has just come from helping."""

LOSSES = 5
"""Replicas in a row that a portion may cost without one molecule answered: then it is the portion that kills them."""

PATIENCE = 120.0
"""Seconds that a portion waits while whatever is asked refuses it: longer than it takes to replace a replica that
refuses."""

PULSE, STALE = 1.0, 45.0
"""Seconds between looks at the replicas, and after which one that says nothing does not count any more; the cluster
itself takes up to half a minute to notice that a machine is gone."""

GAUGES = ("waiting", "running", "slots", "memory_bytes")
COUNTERS = ("steps", "row_steps", "nfe", "step_seconds", "restarts")


@dataclass(frozen=True)
class ReplicaStatus:
    """What a replica says of itself; `rate` in pairs of atoms times evaluations a second."""

    replica: str
    pid: int
    stats: Stats
    health: Health
    rate: float


class ReplicaLost(EnflowError):  # noqa: N818 - an event
    """A replica ended, or broke, before a work did."""


class ReplicaSet(Protocol):
    """Where the replicas are, and how they are reached."""

    def run(self, work: EngineRequest, answered: frozenset[int]) -> AsyncGenerator[Sequence[Event], None]:
        """What becomes of a work, but for the molecules answered already, on a replica that has little to do.

        Raises:
            ReplicaLost: before its end.
            Unavailable: the replica takes no work now.
        """

    async def pulses(self) -> Sequence[ReplicaStatus]:
        """Of all replicas that there are.

        Raises:
            TimeoutError: not all of them say something.
        """


@dataclass(eq=False)
class _Share:
    """Molecules of a work that travel together; which of them are answered, and what that took."""

    work: EngineRequest
    answered: set[int] = field(default_factory=set)
    queue_ms: float = 0.0
    nfe: int = 0
    losses: int = 0

    @property
    def missing(self) -> list[int]:
        first = self.work.first_index
        return [index for index in range(first, first + len(self.work)) if index not in self.answered]


class ReplicaClient:
    """An `EngineClient` of all replicas on a stage.

    Args:
        stage: the replicas.
        queue_s: seconds of work that the whole queue may hold, and `client_share` the part of it that one client may.
    """

    def __init__(self, stage: ReplicaSet, queue_s: float = 600.0, client_share: float = 0.5) -> None:
        self._stage = stage
        self._ledger = RequestTracker()
        self._gate = AdmissionController(queue_s, client_share)
        self._works: dict[str, asyncio.Task[None]] = {}
        self._care: list[asyncio.Task[None]] = []
        self._names = itertools.count()
        self._present: Sequence[ReplicaStatus] = ()
        self._counted: dict[str, Stats] = {}
        self._felt, self._lost = -math.inf, 0
        self._draining = False

    async def start(self) -> None:
        """Start to watch replicas and deadlines; returns at once, `health` says when there is a replica."""
        self._care = [asyncio.create_task(self._feel()), asyncio.create_task(self._watch())]

    async def submit(self, work: EngineRequest) -> None:
        """Take a work.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: no work is taken now.
            ValueError: a work of that id is here.
        """
        if self._draining:
            raise Unavailable("the engines are about to stop and take no new work")
        self._ledger.open(work)
        try:
            self._gate.admit(work)
        except Overloaded:
            self._ledger.forget(work.id)
            raise
        task = self._works[work.id] = asyncio.create_task(self._carry_out(work))
        task.add_done_callback(lambda done: self._after(work.id, done))

    def events(self, work: str) -> AsyncIterator[Event]:
        """What becomes of a work, `Done` last.

        Raises:
            KeyError: no such work is here.
        """
        return self._ledger.events(work)

    async def abort(self, work: str) -> None:
        """Stop a work; nothing happens if it has ended."""
        self._end(work, Reason.CANCELLED, "the request was cancelled")
        self._ledger.forget(work)

    async def drain(self, timeout: float) -> None:
        """Take no new work, and return when all has ended or the time is up."""
        self._draining = True
        if self._works:
            await asyncio.wait(list(self._works.values()), timeout=timeout)

    def stats(self) -> Stats:
        """What goes on, over all replicas; what was finished and failed, of this client's works.

        Its restarts are those of the engines, and of portions that were begun again elsewhere.
        """
        present = [pulse.stats for pulse in self._present]
        counted = {name: sum(getattr(each, name) for each in self._counted.values()) for name in COUNTERS}
        return Stats(
            **{name: sum(getattr(each, name) for each in present) for name in GAUGES},
            **counted | {"restarts": counted["restarts"] + self._lost},
            works=len(self._ledger.owed),
            queue_units=self._gate.queued,
            queue_limit=self._gate.limit,
            queue_seconds=self._gate.queued / self._gate.rate,
            device=", ".join(sorted({f"{len(present)} x {each.device}" for each in present})),
            finished=dict(self._ledger.finished),
            failed=dict(self._ledger.failed),
        )

    def health(self) -> Health:
        """Live: it is looked after. Ready: one replica at least is, and work is taken."""
        live = bool(self._care) and not any(task.done() for task in self._care)
        age = time.monotonic() - self._felt
        found = [pulse.health for pulse in self._present]
        reason = ""
        if not live:
            reason = "the replicas are not watched"
        elif self._draining:
            reason = "the engines are about to stop"
        elif not any(health.ready for health in found):
            reason = "; ".join(sorted({health.reason for health in found})) or "there is no engine yet"
        elif age > STALE:
            reason = f"no replica has said anything for {age:.0f} s"
        return Health(live, not reason, reason, min((health.step_age for health in found), default=math.inf))

    @property
    def replicas(self) -> Sequence[ReplicaStatus]:
        """The replicas, as of the last look."""
        return self._present

    async def close(self) -> None:
        """Stop; what still runs fails."""
        self._draining = True
        tasks = [*self._care, *self._works.values()]
        for entry in self._ledger.owed:
            self._end(entry.work.id, Reason.ENGINE, "the engine was stopped")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # A work's way

    async def _carry_out(self, work: EngineRequest) -> None:
        # As many portions at a time as there are replicas, those included that come later: the rest wait here, for
        # whichever is done first, and to an engine's scheduler a large request stays one work among others.
        began = time.monotonic()
        dealt = [_Share(each) for each in portions(work, max(1, len(self._present)))]
        brought: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            for portion in dealt:
                while len(brought) >= max(1, len(self._present)):
                    _, brought = await asyncio.wait(brought, timeout=PULSE, return_when=asyncio.FIRST_COMPLETED)
                brought.add(group.create_task(self._bring(work.id, portion)))
        queue_ms = min((portion.queue_ms for portion in dealt), default=0.0)
        integrate_ms = max(0.0, 1e3 * (time.monotonic() - began) - queue_ms)
        self._tell(Done(work.id, queue_ms, integrate_ms, sum(portion.nfe for portion in dealt)))

    async def _bring(self, name: str, portion: _Share) -> None:
        taken = time.monotonic()
        while portion.missing:
            before = len(portion.answered)
            try:
                error = await self._attempt(name, portion)
                portion.losses = portion.losses + 1 if len(portion.answered) == before else 0
                taken = time.monotonic()
            except Unavailable as refusal:  # nothing is lost by it
                error = str(refusal)
            if portion.losses == LOSSES:
                self._give_up(name, portion, f"{LOSSES} replicas were lost: {error}")
            elif time.monotonic() - taken > PATIENCE:
                self._give_up(name, portion, f"no replica took it for {PATIENCE:g} s: {error}")
            elif portion.missing:
                await asyncio.sleep(0.1 * 2**portion.losses)

    def _give_up(self, name: str, portion: _Share, why: str) -> None:
        for index in portion.missing:
            self._tell(Failed(name, index, Reason.ENGINE, why))
            portion.answered.add(index)

    async def _attempt(self, name: str, portion: _Share) -> str:
        """Hear what one replica has to say of a portion; why it did not say all.

        Raises:
            Unavailable: the replica takes no work now.
        """
        error = "it did not say why"
        # A name of its own: the replica may not know yet that an earlier attempt is over.
        work = replace(portion.work, id=f"{name}.{next(self._names)}")
        try:
            async with aclosing(self._stage.run(work, frozenset(portion.answered))) as bundles:
                async for event in _one_by_one(bundles):
                    if isinstance(event, Done):
                        portion.queue_ms = portion.queue_ms or event.queue_ms
                        portion.nfe += event.nfe
                    elif isinstance(event, Failed) and event.reason == Reason.ENGINE:
                        error = event.detail  # the engine's end, not the molecule's
                    else:
                        self._tell(_renamed(event, name))
                        if not isinstance(event, Progress):
                            portion.answered.add(event.index)
        except ReplicaLost as lost:
            self._lost += 1
            return str(lost)
        return error

    def _tell(self, event: Event) -> None:
        match self._ledger.hear(event):
            case EventQueue.ANSWER:
                self._gate.answered(event.id)
            case EventQueue.END:
                self._gate.release(event.id)

    def _after(self, work: str, task: asyncio.Task[None]) -> None:
        self._works.pop(work, None)
        if not task.cancelled() and (error := task.exception()):
            self._end(work, Reason.ENGINE, f"a defect: {type(error).__name__}")

    def _end(self, work: str, reason: Reason, detail: str) -> None:
        if task := self._works.get(work):
            task.cancel()
        self._gate.release(work)
        self._ledger.end(work, reason, detail)

    # Care

    async def _feel(self) -> None:
        while True:
            try:
                self._present = await self._stage.pulses()
                self._felt = time.monotonic()
                self._counted |= {pulse.replica: pulse.stats for pulse in self._present}
                self._gate.rate = sum(pulse.rate for pulse in self._present) or self._gate.rate
            except TimeoutError:
                pass  # what was last heard counts until it is stale
            await asyncio.sleep(PULSE)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PULSE / 10)
            for work in self._ledger.late(time.time()):
                self._end(work, Reason.DEADLINE, "the deadline passed before the molecule was finished")


def portions(work: EngineRequest, replicas: int) -> Iterator[EngineRequest]:
    """A work in portions, one for each replica as far as that is sensible."""
    least, most = PORTION
    size = min(max(math.ceil(len(work) / replicas), least), most)
    for begin in range(0, len(work), size):
        yield _part(work, slice(begin, begin + size))


def _part(work: EngineRequest, which: slice) -> EngineRequest:
    first = work.first_index + which.start
    match work:
        case EngineSampleRequest():
            return replace(work, n_atoms=work.n_atoms[which], first_index=first)
        case EngineDecodeRequest():
            return replace(work, latents=work.latents[which], first_index=first)
        case _:
            return replace(work, molecules=work.molecules[which], first_index=first)


def _renamed(event: Event, name: str) -> Event:
    if isinstance(event, Sampled) and event.likelihood:
        return replace(event, id=name, likelihood=replace(event.likelihood, id=name))
    return replace(event, id=name)


async def _one_by_one(bundles: AsyncIterator[Sequence[Event]]) -> AsyncIterator[Event]:
    async for bundle in bundles:
        for event in bundle:
            yield event
