"""The request tracker: every sample has exactly one answer, whatever happens to the engine; and crash isolation."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import RowKey, SampleKey, SavedRow, Snapshot

MAX_CRASHES_ALONE = 3
"""Crashes of a sample that was alone in the step, before it fails. A worker can also be killed from outside, so one
crash proves nothing."""


class Delivery(Enum):
    """The effect of an event on its request: none, the answer to a sample, or the end."""

    NONE = 0
    ANSWER = 1
    END = 2


@dataclass(eq=False)
class TrackedRequest:
    """A request, the indices of its answered samples, and the events that its caller has not read yet.

    Attributes:
        submitted: monotonic seconds.
        nfe: evaluations of the answered samples.
        restarted: an engine that had this request was replaced.
        closed: `Done` is among the events.
    """

    request: EngineRequest
    submitted: float = field(default_factory=time.monotonic)
    answered: set[int] = field(default_factory=set)
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    nfe: int = 0
    restarted: bool = False
    closed: bool = False

    @property
    def missing(self) -> list[int]:
        """The indices without an answer."""
        return [index for index in self.request.indices if index not in self.answered]


class RequestTracker:
    """The requests of a client, from `add` until their caller has read the last event."""

    def __init__(self) -> None:
        self._tracked: dict[str, TrackedRequest] = {}
        self._rows: Mapping[RowKey, SavedRow] = {}
        self.finished: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def add(self, request: EngineRequest, answered: frozenset[int] = frozenset()) -> None:
        """Track a request without the samples that another engine has answered.

        Raises:
            ValueError: a request with this id was added before.
        """
        if request.id in self._tracked:
            raise ValueError(f"found request {request.id!r} twice, expected each id once")
        self._tracked[request.id] = TrackedRequest(request, answered=set(answered))

    def deliver(self, event: Event) -> Delivery:
        """Give an event to the caller of its request, unless an earlier engine has given the same answer."""
        tracked = self._tracked.get(event.id)
        if tracked is None or tracked.closed:
            return Delivery.NONE
        if isinstance(event, Done):
            return Delivery.END if self._close(tracked, event) else Delivery.NONE
        if event.index in tracked.answered:
            return Delivery.NONE
        tracked.events.put_nowait(event)
        if isinstance(event, Progress):
            return Delivery.NONE
        self._count_answer(tracked, event)
        return Delivery.ANSWER

    def missing(self, rows: Iterable[RowKey]) -> set[SampleKey]:
        """Return the samples of these rows that have no answer."""
        unfinished = {tracked.request.id: tracked.answered for tracked in self.unfinished}
        return {key[:2] for key in rows if key[0] in unfinished and key[1] not in unfinished[key[0]]}

    def save_rows(self, rows: Mapping[RowKey, SavedRow]) -> None:
        """Keep the states of the running rows, for a restart."""
        self._rows = rows

    def snapshot(self, isolation: Mapping[SampleKey, int]) -> Snapshot:
        """Return the state from which a new engine continues; samples of different groups will share no step."""
        unfinished = self.unfinished
        for tracked in unfinished:
            tracked.restarted = True
        missing = {tracked.request.id: set(tracked.missing) for tracked in unfinished}
        rows = {key: row for key, row in self._rows.items() if key[1] in missing.get(key[0], ())}
        return Snapshot(
            tuple((tracked.request, frozenset(tracked.answered)) for tracked in unfinished), rows, isolation
        )

    def fail(self, request_id: str, reason: Reason, detail: str) -> bool:
        """Fail the missing samples of a request and close it; return False if it was closed before."""
        tracked = self._tracked.get(request_id)
        if tracked is None or tracked.closed:
            return False
        for index in tracked.missing:
            self.deliver(Failed(request_id, index, reason, detail))
        return self._close(tracked, Done(request_id, 0.0, 0.0, tracked.nfe))

    def forget(self, request_id: str) -> None:
        """Remove a request whose caller will not read any more events."""
        self._tracked.pop(request_id, None)

    async def events(self, request_id: str) -> AsyncIterator[Event]:
        """Yield the events of a request up to `Done`, and then remove the request.

        Raises:
            KeyError: there is no request with this id.
        """
        tracked = self._tracked[request_id]
        while True:
            event = await tracked.events.get()
            if isinstance(event, Done):
                self.forget(request_id)
            yield event
            if isinstance(event, Done):
                return

    @property
    def unfinished(self) -> list[TrackedRequest]:
        """The requests that are not closed."""
        return [tracked for tracked in self._tracked.values() if not tracked.closed]

    def expired(self, now: float) -> list[str]:
        """Return the unfinished requests whose deadline has passed; `now` is the time of day."""
        requests = [tracked.request for tracked in self.unfinished]
        return [request.id for request in requests if request.deadline is not None and request.deadline <= now]

    def _count_answer(self, tracked: TrackedRequest, event: Event) -> None:
        assert not isinstance(event, Done | Progress), "these events answer no sample"
        tracked.answered.add(event.index)
        if isinstance(event, Failed):
            self.failed[str(event.reason)] += 1
        else:
            self.finished[type(event).__name__.lower()] += 1
            tracked.nfe += event.nfe

    def _close(self, tracked: TrackedRequest, done: Done) -> bool:
        if tracked.missing:  # the event comes from an engine that has been replaced
            return False
        if tracked.restarted:
            total_ms = 1e3 * (time.monotonic() - tracked.submitted)
            done = replace(done, nfe=max(done.nfe, tracked.nfe), integrate_ms=total_ms - done.queue_ms)
        tracked.closed = True
        tracked.events.put_nowait(done)
        return True


class CrashIsolation:
    """The suspects of crashes and their groups, so that no sample fails but the one that ends the engine.

    A crash is attributed to the samples that were in the step. They are divided into two groups, and samples of
    different groups share no step in the next worker. The next crash divides one group again, until one sample is
    alone. A sample that ends several workers alone is the cause.
    """

    def __init__(self) -> None:
        self._groups: dict[SampleKey, int] = {}
        self._crashes_alone: Counter[SampleKey] = Counter()
        self._numbers = itertools.count(1)

    @property
    def groups(self) -> Mapping[SampleKey, int]:
        """The group of every suspect; samples that are not suspects have none."""
        return self._groups

    def crash(self, suspects: Collection[SampleKey]) -> SampleKey | None:
        """Record a crash with these samples in the step; return the sample that caused it, once it is known."""
        if not suspects:
            return None
        if len(suspects) == 1:
            (suspect,) = suspects
            self._groups.setdefault(suspect, next(self._numbers))
            self._crashes_alone[suspect] += 1
            return suspect if self._crashes_alone[suspect] >= MAX_CRASHES_ALONE else None
        ordered = sorted(suspects)
        for half in (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]):
            self._groups |= dict.fromkeys(half, next(self._numbers))
        return None

    def discard(self, sample: SampleKey) -> None:
        """Remove a sample that has its answer."""
        self._groups.pop(sample, None)
        self._crashes_alone.pop(sample, None)
