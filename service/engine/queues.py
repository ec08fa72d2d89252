"""The queues of the scheduler: the rows of a request, the requests of a lane, and the order in which rows are taken."""

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from enflow.service.protocol.status import RowKey


@dataclass(eq=False)
class Row:
    """A row as the scheduler sees it.

    Attributes:
        request_id: the request that the row belongs to.
        index: the index of the sample.
        lane: the lane that is charged for the row.
        batch_key: rows with equal keys may share a step.
        cost: the cost of the row's next step, in any unit that all rows share.
        draw: the number of the draw of a likelihood, or of the pass of a sample, from 0; each has noise of its own.
        isolation: rows with different numbers share no step.
        begun: an earlier row, or an earlier stage, of the same sample has finished.
        in_flight: a step of the row has been submitted and its result not been read; it takes part in no other step.
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
    in_flight: bool = False
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
class RequestQueue(Generic[R]):
    """The rows of one request in one lane, by step key: the begun ones first, then in the order of their arrival.

    Attributes:
        arrival: the number of the request in the order of arrival; it decides between equal tags.
        start: the lane's virtual time at the arrival.
        work: the service that the request is expected to need, in units of cost.
        small: the request has so little work that it goes first.
        served: the service that it has received.
    """

    arrival: int
    start: float
    work: float
    small: bool
    served: float = 0.0
    rows: OrderedDict[Hashable, OrderedDict[RowKey, R]] = field(default_factory=OrderedDict)

    def tag(self, served: float) -> float:
        """Return the virtual time at which the request would end with equal shares; the smallest goes first."""
        return self.start + max(self.work, served)

    def is_short(self, max_rows: float) -> bool:
        """Return True if the request is small and has at most `max_rows` rows (or one)."""
        return self.small and sum(map(len, self.rows.values())) <= max(1.0, max_rows)

    def first(self) -> R | None:
        """Return the first row that is not in flight."""
        return next((row for rows in self.rows.values() for row in rows.values() if not row.in_flight), None)


@dataclass
class LaneQueue(Generic[R]):
    """The requests of one lane that have rows.

    Attributes:
        weight: the lane's share of the device.
        start_tag: the service that the lane has received, divided by its weight.
        virtual_time: the service that a request of the lane would have received with equal shares.
        virtual_ends: the virtual times at which requests would end with equal shares, a heap.
        credit: the service that small requests may receive before others continue.
    """

    weight: float
    credit: float
    start_tag: float = 0.0
    virtual_time: float = 0.0
    virtual_ends: list[float] = field(default_factory=list)
    requests: dict[str, RequestQueue[R]] = field(default_factory=dict)

    @property
    def overtakes(self) -> bool:
        """True while small requests go before others."""
        return self.credit > 0 and not all(queue.small for queue in self.requests.values())

    def priority(self, queue: RequestQueue[R], served: float) -> tuple[bool, float, int]:
        """Return the place of a request in the order of service: the smallest goes first.

        Small requests go first as long as there is credit, and last without: those of callers that ask again and again
        would otherwise leave nothing to others.
        """
        return queue.small != (self.credit > 0), queue.tag(served), queue.arrival

    def first(self) -> R | None:
        """Return the first row of the first request that has a row not in flight."""
        queues = sorted(self.requests.values(), key=lambda queue: self.priority(queue, queue.served))
        return next((row for queue in queues if (row := queue.first())), None)

    def first_running(self, batch_key: Hashable) -> R | None:
        """Return a row with this batch key that holds a slot and is not in flight."""
        rows = (row for queue in self.requests.values() for of_key in queue.rows.values() for row in of_key.values())
        running = (row for row in rows if row.state == "running" and row.batch_key == batch_key)
        return next((row for row in running if not row.in_flight), None)

    def expect(self, work: float) -> None:
        """Let a new request take part in the equal shares until it would have received this service."""
        if not self.requests:
            self.virtual_ends.clear()
        heapq.heappush(self.virtual_ends, self.virtual_time + work)

    def settle(self, queue: RequestQueue[R]) -> None:
        """Let a request that has ended take part in the equal shares no longer than its service lasts."""
        expected = queue.start + queue.work
        if queue.served < queue.work and expected in self.virtual_ends:
            self.virtual_ends.remove(expected)
            self.virtual_ends.append(queue.start + queue.served)
            heapq.heapify(self.virtual_ends)

    def advance(self, service: float) -> None:
        """Share service equally among the requests that would not have ended yet."""
        while ends := self.virtual_ends:
            until_next_end = (ends[0] - self.virtual_time) * len(ends)
            if until_next_end > service:
                break
            service -= max(0.0, until_next_end)
            self.virtual_time = max(self.virtual_time, heapq.heappop(ends))
        self.virtual_time += service / max(1, len(ends))

    def take(self, key: Hashable, max_rows: int, free: "FreeSlots") -> list[R]:
        """Take rows one by one from the first request, which may then come behind another by the row's cost."""
        queues = [queue for queue in self.requests.values() if key in queue.rows]
        heap = [(self.priority(one, one.served), one.served, one, iter(one.rows[key].values())) for one in queues]
        heapq.heapify(heap)
        taken: list[R] = []
        while heap and len(taken) < max(1, max_rows):
            _, served, queue, rows = heapq.heappop(heap)
            row = next((row for row in rows if not row.in_flight and free.take(row, small=queue.small)), None)
            if row is not None:
                taken.append(row)
                served += row.cost
                heapq.heappush(heap, (self.priority(queue, served), served, queue, rows))
        return taken


@dataclass
class FreeSlots:
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
