"""The scheduler: it chooses the rows of the next step. Plain Python, no torch.

A step takes rows with one batch key, since only these may share a forward pass. The choice is start-time fair queueing
(Goyal, Vin and Cheng, SIGCOMM 1996) on two levels: among the lanes by weight, and in a lane among the requests with
equal weights. Every lane and every request has a start tag: the service it has received, divided by its weight. The
smallest start tag goes first. A lane or a request that had no rows starts again at the current virtual time, so that
idle time earns nothing.

Three additions favour small requests:
- A small request starts a fixed credit before the virtual time (the warp of borrowed-virtual-time scheduling: Duda and
  Cheriton, SOSP 1999), and is finished within it. With a credit for large ones, many of them would go before it.
- While a short one uses it, the steps of its lane are short, because the request waits for each of them.
- The last slots of a batch key are for small requests.
In a request the samples that have begun go first, so that samples finish all the time and not only at the end.
"""

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from enflow.service.protocol.status import RowKey

AGING = 0.5
"""The part of the mean service of a lane's requests by which its virtual time advances at least. With 0.5 an old
request keeps a quarter of the device under an endless stream of small new ones; with 1 a new one would gain nothing."""

RESERVED_SLOTS = 1 / 8
"""The part of the slots that is left for small requests."""

SHORT_REQUEST = 1 / 4
"""A request is short if its rows fill at most this part of a short step."""


@dataclass(eq=False)
class Row:
    """A row as the scheduler sees it.

    Attributes:
        request_id: the request that the row belongs to.
        index: the index of the sample.
        lane: the lane that is charged for the row.
        batch_key: rows with equal keys may share a step.
        cost: the cost of the row's next step, in any unit that all rows share.
        draw: the number of the draw of a likelihood, from 0.
        isolation: rows with different numbers share no step.
        begun: an earlier row, or an earlier stage, of the same sample has finished.
        state: "running" from the first step on.
    """

    request_id: str
    index: int
    lane: str
    batch_key: Hashable
    cost: float
    draw: int = 0
    isolation: int = 0
    begun: bool = False
    state: Literal["waiting", "running", "finished"] = "waiting"

    @property
    def key(self) -> RowKey:
        """The identity of the row: request, index, draw."""
        return self.request_id, self.index, self.draw

    @property
    def step_key(self) -> Hashable:
        """Rows with equal keys may share a step."""
        return self.batch_key, self.isolation


R = TypeVar("R", bound=Row)


@dataclass
class _RequestQueue(Generic[R]):
    """The rows of one request in one lane, by step key: the begun ones first, then in the order of their arrival.

    Attributes:
        arrival: the number of the request in the order of arrival; it decides between equal start tags.
        start_tag: the virtual time at which the next service starts.
        credit_end: the start tag at which the credit of a small request is used up.
        small: the request has so little work that it goes first.
    """

    arrival: int
    start_tag: float = -math.inf
    credit_end: float = -math.inf
    small: bool = False
    rows: OrderedDict[Hashable, OrderedDict[RowKey, R]] = field(default_factory=OrderedDict)

    @property
    def priority(self) -> tuple[float, int]:
        """The order of service: the smallest goes first."""
        return self.start_tag, self.arrival

    def is_new_and_short(self, max_rows: float) -> bool:
        """Return True if the request still uses its credit and has at most `max_rows` rows (or one)."""
        return self.start_tag < self.credit_end and sum(map(len, self.rows.values())) <= max(1.0, max_rows)

    def first(self) -> R:
        """Return the first row."""
        return next(iter(next(iter(self.rows.values())).values()))


@dataclass
class _LaneQueue(Generic[R]):
    """The requests of one lane that have rows.

    Attributes:
        weight: the lane's share of the device.
        start_tag: the service that the lane has received, divided by its weight.
        virtual_time: the virtual time of the lane's requests.
    """

    weight: float
    start_tag: float = 0.0
    virtual_time: float = 0.0
    requests: dict[str, _RequestQueue[R]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry(Generic[R]):
    deadline: float | None
    small: bool = False
    rows: dict[RowKey, R] = field(default_factory=dict)
    queues: dict[str, _RequestQueue[R]] = field(default_factory=dict)


class Scheduler(Generic[R]):
    """Waiting and running rows, and the choice of the next step.

    Args:
        weights: the lanes and their shares of the device while all lanes have rows.
        max_rows: the largest number of rows in a step, by batch key; at least 1.
        slots: the rows of one lane and batch key that may hold a state on the device; at least `max_rows`.
        initial_credit: the service, in units of cost, that a small request may receive before older ones continue.
        short_step_rows: the rows of a step while a new and short request waits; None = `max_rows`.
    """

    def __init__(
        self,
        weights: Mapping[Any, float],
        max_rows: Callable[[Any], int],
        slots: int,
        initial_credit: float = 0.0,
        short_step_rows: Callable[[Any], int] | None = None,
    ) -> None:
        self._lanes: dict[str, _LaneQueue[R]] = {name: _LaneQueue(weight) for name, weight in weights.items()}
        self._max_rows, self._short_step_rows = max_rows, short_step_rows or max_rows
        self._slots, self._initial_credit = slots, initial_credit
        self._reserved = int(RESERVED_SLOTS * slots) if initial_credit else 0
        self._entries: dict[str, _Entry[R]] = {}
        self._running = Counter[tuple[str, Hashable]]()
        self._arrivals, self._virtual_time = 0, 0.0

    def add(self, request_id: str, rows: Iterable[R], deadline: float | None = None, *, small: bool = False) -> None:
        """Add waiting rows of a request; a request may gain rows later. A small request goes first.

        Raises:
            ValueError: a row with the same key was added before.
        """
        entry = self._entries.setdefault(request_id, _Entry(deadline, small))
        for row in rows:
            if row.key in entry.rows:
                raise ValueError(f"found row {row.key} twice, expected each row once")
            entry.rows[row.key] = row
            self._enqueue(row)

    def schedule(self) -> list[R]:
        """Return the rows of the next step, running and charged for it; an empty list if there are no rows.

        The request with the smallest start tag chooses the batch key. All requests of the lane with rows of this key
        share the step.
        """
        lane = min((q for q in self._lanes.values() if q.requests), key=lambda q: q.start_tag, default=None)
        if lane is None:
            return []
        self._virtual_time = lane.start_tag
        rows = self._choose(lane, min(lane.requests.values(), key=lambda queue: queue.priority).first())
        # The virtual time advances with the service of all, so that no stream of new requests stays before an old one.
        lane.virtual_time += AGING * sum(row.cost for row in rows) / len(lane.requests)
        for row in rows:
            lane.start_tag += row.cost / lane.weight
            queue = lane.requests[row.request_id]
            queue.start_tag += row.cost
            lane.virtual_time = max(lane.virtual_time, queue.start_tag)
            self._running[row.lane, row.batch_key] += row.state == "waiting"
            row.state = "running"
        return rows

    def move(self, row: R, lane: str, batch_key: Hashable, cost: float) -> None:
        """Move a row to another batch key, where it waits for its next step."""
        self._dequeue(row)
        row.lane, row.batch_key, row.cost, row.begun, row.state = lane, batch_key, cost, True, "waiting"
        self._enqueue(row)

    def finish(self, row: R) -> bool:
        """Remove a row; return True if it was the last row of its request."""
        self._dequeue(row)
        row.state = "finished"
        entry = self._entries[row.request_id]
        del entry.rows[row.key]
        if not entry.rows:
            del self._entries[row.request_id]
        return not entry.rows

    def expired(self, now: float) -> list[str]:
        """Return the requests whose deadline has passed."""
        return [name for name, entry in self._entries.items() if entry.deadline is not None and entry.deadline <= now]

    def rows(self) -> list[R]:
        """Return all rows that are not finished."""
        return [row for entry in self._entries.values() for row in entry.rows.values()]

    @property
    def running(self) -> int:
        """The number of rows that have taken a step."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """The number of rows that have not taken a step yet."""
        return sum(len(entry.rows) for entry in self._entries.values()) - self.running

    def _choose(self, lane: _LaneQueue[R], first: R) -> list[R]:
        key, queues = first.step_key, list(lane.requests.values())
        max_rows, short_step_rows = self._max_rows(first.batch_key), self._short_step_rows(first.batch_key)
        limit = SHORT_REQUEST * short_step_rows
        short = [queue for queue in queues if queue.is_new_and_short(limit)] if len(queues) > 1 else []
        free = _FreeSlots(self._slots - self._running[first.lane, first.batch_key], self._reserved)
        rows = _fair_share(queues, key, short_step_rows if short else max_rows, free)
        # All rows of short requests take part, also beyond the rows of a short step.
        others = (row for queue in short for row in queue.rows.get(key, {}).values() if row not in rows)
        return rows + [row for row in islice(others, max(0, max_rows - len(rows))) if free.take(row, small=True)]

    def _enqueue(self, row: R) -> None:
        lane = self._lanes[row.lane]
        if not lane.requests:
            lane.start_tag = max(lane.start_tag, self._virtual_time)
        if row.request_id not in lane.requests:
            lane.requests[row.request_id] = self._queue(row, lane)
        rows = lane.requests[row.request_id].rows
        rows.setdefault(row.step_key, OrderedDict())[row.key] = row
        if row.begun:
            rows.move_to_end(row.step_key, last=False)
            rows[row.step_key].move_to_end(row.key, last=False)

    def _queue(self, row: R, lane: _LaneQueue[R]) -> _RequestQueue[R]:
        self._arrivals += 1
        entry = self._entries[row.request_id]
        queue = entry.queues.setdefault(row.lane, _RequestQueue(self._arrivals, small=entry.small))
        earliest = lane.virtual_time - (self._initial_credit if entry.small else 0.0)
        if queue.start_tag < earliest:
            queue.start_tag, queue.credit_end = earliest, lane.virtual_time
        return queue

    def _dequeue(self, row: R) -> None:
        if row.state == "running":
            self._running[row.lane, row.batch_key] -= 1
        requests = self._lanes[row.lane].requests
        queue = requests[row.request_id]
        del queue.rows[row.step_key][row.key]
        if not queue.rows[row.step_key]:
            del queue.rows[row.step_key]
        if not queue.rows:
            del requests[row.request_id]


@dataclass
class _FreeSlots:
    """The number of free slots on the device, and of those among them that are for small requests only."""

    count: int
    reserved: int

    def take(self, row: Row, *, small: bool) -> bool:
        """Return True if the row is running, or else if there is a slot for it, which it takes."""
        if row.state == "running":
            return True
        free = self.count > (0 if small else self.reserved)
        self.count -= free
        return free


def _fair_share(queues: Iterable[_RequestQueue[R]], key: Hashable, max_rows: int, free: _FreeSlots) -> list[R]:
    """Take rows one by one from the request with the smallest start tag, which then advances by the row's cost."""
    heap = [(*queue.priority, queue.small, iter(queue.rows[key].values())) for queue in queues if key in queue.rows]
    heapq.heapify(heap)
    taken: list[R] = []
    while heap and len(taken) < max(1, max_rows):
        start_tag, arrival, small, rows = heapq.heappop(heap)
        row = next((row for row in rows if free.take(row, small=small)), None)
        if row is not None:
            taken.append(row)
            heapq.heappush(heap, (start_tag + row.cost, arrival, small, rows))
    return taken
