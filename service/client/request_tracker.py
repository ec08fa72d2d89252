"""What is owed to callers: every molecule is told about once, whatever happens to the engine."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import RowKey, SavedRow, Snapshot


class EventQueue(Enum):
    """What an event was to its caller."""

    NOTHING = 0
    NEWS = 1
    ANSWER = 2
    END = 3


@dataclass(eq=False)
class TrackedRequest:
    """A work, the indices answered, and the events that its caller has not heard yet."""

    work: EngineRequest
    came: float = field(default_factory=time.monotonic)
    answered: set[int] = field(default_factory=set)
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    nfe: int = 0
    restarted: bool = False
    closed: bool = False

    @property
    def missing(self) -> list[int]:
        """Indices not answered yet."""
        first = self.work.first_index
        return [index for index in range(first, first + len(self.work)) if index not in self.answered]


class RequestTracker:
    """Works from their coming to the last event their caller takes."""

    def __init__(self) -> None:
        self._entries: dict[str, TrackedRequest] = {}
        self._rows: Mapping[RowKey, SavedRow] = {}
        self.finished: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def open(self, work: EngineRequest, answered: frozenset[int] = frozenset()) -> None:
        """Owe a work, but for the molecules that somebody else has answered.

        Raises:
            ValueError: a work of that id is owed already.
        """
        if work.id in self._entries:
            raise ValueError(f"found work {work.id!r} twice, expected each id once")
        self._entries[work.id] = TrackedRequest(work, answered=set(answered))

    def hear(self, event: Event) -> EventQueue:
        """Pass an event of the engine on, unless its caller has had it before."""
        entry = self._entries.get(event.id)
        if entry is None or entry.closed:
            return EventQueue.NOTHING
        if isinstance(event, Done):
            return EventQueue.END if self._close(entry, event) else EventQueue.NOTHING
        if event.index in entry.answered:
            return EventQueue.NOTHING
        entry.events.put_nowait(event)
        if isinstance(event, Progress):
            return EventQueue.NEWS
        self._answer(entry, event)
        return EventQueue.ANSWER

    def save(self, rows: Mapping[RowKey, SavedRow]) -> None:
        """Keep where rows stand, for a restart."""
        self._rows = rows

    def snapshot(self) -> Snapshot:
        """What a new engine must go on with."""
        owed = self.owed
        for entry in owed:
            entry.restarted = True
        wanted = {entry.work.id: set(entry.missing) for entry in owed}
        rows = {key: row for key, row in self._rows.items() if key[1] in wanted.get(key[0], ())}
        return Snapshot(tuple((entry.work, frozenset(entry.answered)) for entry in owed), rows)

    def end(self, work: str, reason: Reason, detail: str) -> bool:
        """Fail what is missing of a work and close it; whether there was anything to close."""
        entry = self._entries.get(work)
        if entry is None or entry.closed:
            return False
        for index in entry.missing:
            self.hear(Failed(work, index, reason, detail))
        return self._close(entry, Done(work, 0.0, 0.0, entry.nfe))

    def forget(self, work: str) -> None:
        """Its caller will not ask any more."""
        self._entries.pop(work, None)

    async def events(self, work: str) -> AsyncIterator[Event]:
        """A work's events to the last, after which it is forgotten.

        Raises:
            KeyError: no such work is owed.
        """
        entry = self._entries[work]
        while True:
            event = await entry.events.get()
            if isinstance(event, Done):
                self.forget(work)
            yield event
            if isinstance(event, Done):
                return

    @property
    def owed(self) -> list[TrackedRequest]:
        """Works that are not closed."""
        return [entry for entry in self._entries.values() if not entry.closed]

    def late(self, now: float) -> list[str]:
        """Works owed beyond their deadline, by the time of day."""
        return [e.work.id for e in self.owed if e.work.deadline is not None and e.work.deadline <= now]

    def _answer(self, entry: TrackedRequest, event: Event) -> None:
        assert not isinstance(event, Done | Progress), "these answer no molecule"
        entry.answered.add(event.index)
        if isinstance(event, Failed):
            self.failed[str(event.reason)] += 1
        else:
            self.finished[type(event).__name__.lower()] += 1
            entry.nfe += event.nfe

    def _close(self, entry: TrackedRequest, done: Done) -> bool:
        if entry.missing:  # of an engine that has been replaced
            return False
        if entry.restarted:
            total = 1e3 * (time.monotonic() - entry.came)
            done = replace(done, nfe=max(done.nfe, entry.nfe), integrate_ms=total - done.queue_ms)
        entry.closed = True
        entry.events.put_nowait(done)
        return True
