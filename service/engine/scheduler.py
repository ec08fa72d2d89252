"""Which molecules step next: fair shares between requests and lanes, within a budget; plain Python, no torch.

The unit is a row: one molecule, or one draw of its likelihood. A step takes rows that may share a forward (one group)
up to the group's room. Who goes first is decided by virtual time (start-time fair queueing: Goyal, Vin and Cheng,
SIGCOMM 1996): service received, divided by weight, first among lanes, then among the works of a lane. One rule does
what a deficit round robin over lanes, equal shares and ageing would do in three: who waits does not advance, and so
comes first; who was idle starts at the present and has saved nothing up. A new work starts a little before the present:
by this head start a small one is done before the large ones go on, and none can hold them up for longer than that.
While a small new one is about, steps are brief, since it waits for the end of each.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from enflow.service.protocol.status import RowKey

Key = Hashable

AGEING = 0.5
"""How fast a lane's present goes on where only new works are served. It keeps an old work a quarter of the device while
small new ones come without end; at 1 a new work would have no lead over one that is alone."""


SMALL = 4
"""A work is small if so many like it fill a brief step."""


@dataclass(eq=False)
class Row:
    """A molecule on its way, or one draw of its likelihood; the engine's own data about it hang on by subclassing.

    group: what may share a forward. cost: of its next step, in any unit shared by all rows.
    """

    work: str
    index: int
    lane: str
    group: Key
    cost: float
    draw: int = 0
    state: Literal["waiting", "running", "finished"] = "waiting"

    @property
    def key(self) -> RowKey:
        """What names the row: work, index, draw."""
        return self.work, self.index, self.draw


R = TypeVar("R", bound=Row)


@dataclass
class _Flow(Generic[R]):
    """The rows of one work in one lane, by group, in the order of their coming; its virtual time; when it came.

    It is new until its time reaches `debut`.
    """

    arrival: int
    time: float = -math.inf
    debut: float = -math.inf
    groups: dict[Key, dict[RowKey, R]] = field(default_factory=dict)

    def hurries(self, few: float) -> bool:
        """Whether it is new and small, so that it waits for its steps rather than for the device."""
        return self.time < self.debut and sum(len(rows) for rows in self.groups.values()) <= max(1.0, few)

    def head(self) -> R:
        return next(iter(next(iter(self.groups.values())).values()))


@dataclass
class _Lane(Generic[R]):
    """A lane's weight and virtual time, the present in the virtual time of its flows, and those that have rows."""

    weight: float
    time: float = 0.0
    present: float = 0.0
    flows: dict[str, _Flow[R]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry(Generic[R]):
    deadline: float | None
    rows: dict[RowKey, R] = field(default_factory=dict)
    flows: dict[str, _Flow[R]] = field(default_factory=dict)


class Scheduler(Generic[R]):
    """Rows waiting and running, and the choice of the next step.

    Args:
        weights: the lanes and their shares of the device while all have work.
        room: how many rows of a group one step may take; at least 1.
        slots: how many rows of a lane's group may be running, that is have a state on the device; at least its room.
        head_start: service, in units of cost, that a new work may have before the others of its lane go on.
        brief: the room of a step while one of several works is new and small; None = as ever.
    """

    def __init__(
        self,
        weights: Mapping[Any, float],
        room: Callable[[Any], int],
        slots: int,
        head_start: float = 0.0,
        brief: Callable[[Any], int] | None = None,
    ) -> None:
        self._lanes: dict[str, _Lane[R]] = {name: _Lane(weight) for name, weight in weights.items()}
        self._room, self._brief = room, brief or room
        self._slots, self._head_start = slots, head_start
        self._entries: dict[str, _Entry[R]] = {}
        self._running: dict[tuple[str, Key], int] = {}
        self._arrivals = 0
        self._present = 0.0

    def add(self, work: str, rows: Iterable[R], deadline: float | None = None) -> None:
        """Let rows of a work wait for their turn; a work may gain rows as it goes.

        Raises:
            ValueError: a row of that key is already here.
        """
        entry = self._entries.setdefault(work, _Entry(deadline))
        for row in rows:
            if row.key in entry.rows:
                raise ValueError(f"found row {row.key} twice, expected each once")
            entry.rows[row.key] = row
            self._enter(row)

    def batch(self) -> list[R]:
        """The rows of the next step, now running and charged for it; empty if nothing can step.

        The work that has had least chooses the group, and the rest of the room is shared fairly among all works with
        rows of that group: rows already on their way first, so that few are parked half-way.
        """
        lane = min((lane for lane in self._lanes.values() if lane.flows), key=lambda lane: lane.time, default=None)
        if lane is None:
            return []
        first = min(lane.flows.values(), key=_precedence)
        self._present = lane.time
        rows = self._fill(lane, first.head())
        # The present goes on with everybody's service, so that no stream of new works stays ahead of an old one.
        lane.present += AGEING * sum(row.cost for row in rows) / len(lane.flows)
        for row in rows:
            lane.time += row.cost / lane.weight
            flow = lane.flows[row.work]
            flow.time += row.cost
            lane.present = max(lane.present, flow.time)
            self._start(row)
        return rows

    def move(self, row: R, lane: str, group: Key, cost: float) -> None:
        """Send a running row to another group, where it waits for its next step."""
        self._leave(row)
        row.lane, row.group, row.cost = lane, group, cost
        row.state = "waiting"
        self._enter(row)

    def finish(self, row: R) -> bool:
        """Take a row out; whether it was the last of its work."""
        self._leave(row)
        row.state = "finished"
        entry = self._entries[row.work]
        del entry.rows[row.key]
        if not entry.rows:
            del self._entries[row.work]
        return not entry.rows

    def abort(self, work: str) -> list[R]:
        """Take all rows of a work out, waiting or running; none if the work is not here (it may just have ended)."""
        rows = list(self._entries[work].rows.values()) if work in self._entries else []
        for row in rows:
            self.finish(row)
        return rows

    def expired(self, now: float) -> list[str]:
        """The works whose deadline has passed."""
        return [name for name, entry in self._entries.items() if entry.deadline is not None and entry.deadline <= now]

    def rows(self, work: str | None = None) -> list[R]:
        """All rows that are not finished, or those of a work."""
        entries = self._entries.values() if work is None else filter(None, [self._entries.get(work)])
        return [row for entry in entries for row in entry.rows.values()]

    @property
    def running(self) -> int:
        """Rows that have a state on the device."""
        return sum(self._running.values())

    @property
    def waiting(self) -> int:
        """Rows that have none yet."""
        return sum(len(entry.rows) for entry in self._entries.values()) - self.running

    @property
    def works(self) -> int:
        """Works with rows here."""
        return len(self._entries)

    def _fill(self, lane: _Lane[R], head: R) -> list[R]:
        group = head.group
        few = self._brief(group) / SMALL
        hurried = [flow for flow in lane.flows.values() if flow.hurries(few)] if len(lane.flows) > 1 else []
        flows = [flow for flow in lane.flows.values() if group in flow.groups]
        free = _Free(self._slots - self._running.get((head.lane, group), 0))
        taken = _fairly(flows, group, (self._brief if hurried else self._room)(group), free)
        # Those in a hurry step with everybody, however many there are.
        waiting = (row for flow in hurried for row in flow.groups.get(group, {}).values() if row not in taken)
        room = self._room(group) - len(taken)
        return taken + [row for row in islice(waiting, max(0, room)) if free.take(row)]

    def _start(self, row: R) -> None:
        if row.state == "waiting":
            row.state = "running"
            self._running[row.lane, row.group] = self._running.get((row.lane, row.group), 0) + 1

    def _enter(self, row: R) -> None:
        lane = self._lanes[row.lane]
        if not lane.flows:
            lane.time = max(lane.time, self._present)
        if row.work not in lane.flows:
            self._arrivals += 1
            flow = self._entries[row.work].flows.setdefault(row.lane, _Flow(self._arrivals))
            if flow.time < lane.present - self._head_start:
                flow.time, flow.debut = lane.present - self._head_start, lane.present
            lane.flows[row.work] = flow
        lane.flows[row.work].groups.setdefault(row.group, {})[row.key] = row

    def _leave(self, row: R) -> None:
        if row.state == "running":
            self._running[row.lane, row.group] -= 1
        flows = self._lanes[row.lane].flows
        flow = flows[row.work]
        del flow.groups[row.group][row.key]
        if not flow.groups[row.group]:
            del flow.groups[row.group]
        if not flow.groups:
            del flows[row.work]


@dataclass
class _Free:
    """Slots that nobody holds."""

    slots: int

    def take(self, row: Row) -> bool:
        """Whether a row may step: it runs, or there is a slot for it, which it then has."""
        if row.state == "running":
            return True
        self.slots -= 1
        return self.slots >= 0


def _fairly(flows: list[_Flow[R]], group: Key, room: int, free: _Free) -> list[R]:
    queue = [(*_precedence(flow), iter(flow.groups[group].values())) for flow in flows]
    heapq.heapify(queue)
    taken: list[R] = []
    while queue and len(taken) < max(1, room):
        time, arrival, rows = heapq.heappop(queue)
        row = next((row for row in rows if free.take(row)), None)
        if row is not None:
            taken.append(row)
            heapq.heappush(queue, (time + row.cost, arrival, rows))
    return taken


def _precedence(flow: _Flow[Any]) -> tuple[float, int]:
    return flow.time, flow.arrival
