"""The scheduler: it chooses the rows of the next step. Plain Python, no torch.

A step takes rows with one batch key, since only these may share a forward pass. The choice has two levels:

- Among the lanes it is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). A lane's start tag is the service
  that it has received, divided by its weight, and the smallest goes first. A lane that had no rows starts again at the
  current virtual time, so that idle time earns nothing.
- In a lane it is the fair sojourn protocol (Friedman and Henderson, SIGMETRICS 2003): requests are served in the order
  in which they would end if all had equal shares of the lane. So a request ends no later than with equal shares, as
  far as its work is known, and most end earlier. A request that needs more work than expected loses its place to others
  as its service grows.

Three additions favour small requests:
- They go before the others of their lane as far as their credit reaches, and else behind them. It is a token bucket
  that all service fills by a part of its cost, up to a bound, and that theirs empties while others wait.
- While a short one waits, the steps of its lane are short, because the request waits for each of them.
- The last slots of a batch key are for small requests.
In a request the samples that have begun go first, so that samples finish all the time and not only at the end.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic

from enflow.service.engine.queues import FreeSlots, LaneQueue, R, RequestQueue
from enflow.service.protocol.status import RowKey

SMALL_SHARE = 3 / 4
"""The part of a lane that small requests may use in the long run before others continue."""

RESERVED_SLOTS = 1 / 8
"""The part of the slots that is left for small requests."""

SHORT_REQUEST = 1 / 4
"""A request is short if its rows fill at most this part of a short step."""


@dataclass(frozen=True)
class _Entry(Generic[R]):
    deadline: float | None
    work: float
    small: bool
    rows: dict[RowKey, R] = field(default_factory=dict)
    queues: dict[str, RequestQueue[R]] = field(default_factory=dict)


class Scheduler(Generic[R]):
    """Waiting and running rows, and the choice of the next step.

    Args:
        weights: the lanes and their shares of the device while all lanes have rows.
        max_rows: the largest number of rows in a step, by batch key; at least 1.
        slots: the rows of one lane and batch key that may hold a state on the device; at least `max_rows`.
        credit: the service, in units of cost, that small requests may receive at once before others continue.
        short_step_rows: the rows of a step while a new and short request waits; None = `max_rows`.
        parts: the steps that may be in flight at the same time, with a part of the rows each.
        step_cost: the most that the rows of a step cost together, by batch key.
    """

    def __init__(
        self,
        weights: Mapping[Any, float],
        max_rows: Callable[[Any], int],
        slots: int,
        credit: float = 0.0,
        short_step_rows: Callable[[Any], int] | None = None,
        parts: int = 1,
        step_cost: Callable[[Any], float] = lambda _: math.inf,
    ) -> None:
        self._lanes: dict[str, LaneQueue[R]] = {name: LaneQueue(weight, credit) for name, weight in weights.items()}
        self._max_rows, self._short_step_rows = max_rows, short_step_rows or max_rows
        self._slots, self._credit, self._parts, self._step_cost = slots, credit, parts, step_cost
        self._reserved = int(RESERVED_SLOTS * slots) if credit else 0
        self._entries: dict[str, _Entry[R]] = {}
        self._running = Counter[tuple[str, Hashable]]()
        self._arrivals, self._virtual_time = 0, 0.0

    def add(
        self,
        request_id: str,
        rows: Iterable[R],
        deadline: float | None = None,
        *,
        work: float,
        small: bool = False,
    ) -> None:
        """Add waiting rows of a request; a request may gain rows later.

        Args:
            request_id: the request.
            rows: its new rows.
            deadline: see `expired`; of the first call.
            work: the service that the request is expected to need, in units of cost; of the first call.
            small: the request goes first; of the first call.

        Raises:
            ValueError: a row with the same key was added before.
        """
        entry = self._entries.setdefault(request_id, _Entry(deadline, work, small))
        for row in rows:
            if row.key in entry.rows:
                raise ValueError(f"found row {row.key} twice, expected each row once")
            entry.rows[row.key] = row
            self._enqueue(row)

    def schedule(self) -> list[R]:
        """Return the rows of the next step, running and charged for it; an empty list if all rows are in flight.

        The first request chooses the batch key. All requests of the lane with rows of this key share the step.
        """
        ready = [(lane, row) for lane in self._lanes.values() if (row := lane.first())]
        if not ready:
            return []
        lane, first = min(ready, key=lambda each: each[0].start_tag)
        self._virtual_time = lane.start_tag
        rows = self._choose(lane, first)
        # Where rows of another isolation hold all slots, these go on until one is free.
        if not rows and (running := lane.first_running(first.batch_key)):
            rows = self._choose(lane, running)
        for row in rows:
            row.cost = min(row.cost, self._step_cost(row.batch_key) / len(rows))
        service, overtakes = sum(row.cost for row in rows), lane.overtakes
        lane.advance(service)
        lane.start_tag += service / lane.weight
        lane.credit = min(self._credit, lane.credit + SMALL_SHARE * service)
        for row in rows:
            queue = lane.requests[row.request_id]
            queue.served += row.cost
            lane.credit -= row.cost if overtakes and queue.small else 0.0
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
            for name, queue in entry.queues.items():
                self._lanes[name].settle(queue)
        return not entry.rows

    def expired(self, now: float) -> list[str]:
        """Return the requests whose deadline has passed."""
        return [name for name, entry in self._entries.items() if entry.deadline is not None and entry.deadline <= now]

    def rows(self) -> list[R]:
        """Return all rows that are not finished."""
        return [row for entry in self._entries.values() for row in entry.rows.values()]

    @property
    def occupied(self) -> int:
        """The largest number of rows of one lane and batch key that hold a state on the device."""
        return max(self._running.values(), default=0)

    def _choose(self, lane: LaneQueue[R], first: R) -> list[R]:
        key, queues = first.step_key, list(lane.requests.values())
        rows_of_key = min(self._slots, sum(len(queue.rows.get(key, ())) for queue in queues))
        max_rows = min(self._max_rows(first.batch_key), math.ceil(rows_of_key / self._parts))
        short_step_rows = min(max_rows, self._short_step_rows(first.batch_key))
        limit = SHORT_REQUEST * short_step_rows
        favoured = len(queues) > 1 and lane.credit > 0
        short = [queue for queue in queues if queue.is_short(limit)] if favoured else []
        free = FreeSlots(self._slots - self._running[first.lane, first.batch_key], self._reserved)
        rows = lane.take(key, short_step_rows if short else max_rows, free)
        # All rows of short requests take part, also beyond the rows of a short step.
        found = {*rows}
        short_rows = (row for queue in short for row in queue.rows.get(key, {}).values())
        others = (row for row in short_rows if row not in found and not row.in_flight)
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

    def _queue(self, row: R, lane: LaneQueue[R]) -> RequestQueue[R]:
        entry = self._entries[row.request_id]
        if row.lane not in entry.queues:
            self._arrivals += 1
            lane.expect(entry.work)
            entry.queues[row.lane] = RequestQueue(self._arrivals, lane.virtual_time, entry.work, entry.small)
        return entry.queues[row.lane]

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
