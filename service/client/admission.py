"""Admission control: the queue is bounded by the cost of the requests, and a refused client gets a promise."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from enflow.service.engine.cost_model import SMALL_REQUEST
from enflow.service.protocol.requests import EngineRequest, sample_costs
from enflow.service.protocol.status import Overloaded

RATE = 1e5
"""Pairs of atoms times evaluations that one core computes per second, until the engine reports its own rate."""

RESERVE = 0.1
"""The part of the queue that is added for clients who hold nothing in it, so that no others can keep them out. A
request of any size is also admitted beside smaller requests of its client that hold less than this part."""


SMALL_S, SMALL_RESERVE = 3.0, 0.5
"""Seconds of computing that small requests may hold in the queue, and the part that is added for clients who hold
nothing. Small requests go before all others and take at least half of the device, so they wait 6 s at most."""

MAX_WAIT_S = 3600.0
"""Seconds up to which room is promised, the largest value of Retry-After."""

KEPT = 0.25
"""The part by which the queue may exceed its limit for requests that were promised room."""

PATIENCE_S = 5.0
"""Seconds after its time for which a promise is kept."""

Scope = Literal["client", "service", "small"]

QUEUES: Mapping[Scope, str] = {
    "client": "this client's share of the queue",
    "service": "the service's queue",
    "small": "the service's queue for small requests",
}

Works = Counter[str]
"""The remaining cost by client."""


@dataclass(frozen=True)
class Promise:
    """Room for a cost at a time.

    Attributes:
        request_id: the request that was refused; a caller who waits tries the same one again.
        client: the client that was refused.
        scope: the limit that refused it.
        cost: the cost that was refused.
        due: the time of day from which on there is room.
    """

    request_id: str
    client: str
    scope: str
    cost: float
    due: float


@dataclass
class Promises:
    """The promises that are not redeemed yet. Without them all that were refused together would come back together."""

    _open: list[Promise] = field(default_factory=list)

    def add(self, promise: Promise) -> None:
        """Make a promise, or keep an earlier one of the same request."""
        if all(each.request_id != promise.request_id for each in self._open):
            self._open.append(promise)

    def withdraw(self, request_id: str) -> None:
        """Remove the promise of a request that is admitted."""
        self._open = [each for each in self._open if each.request_id != request_id]

    def redeem(self, client: str, cost: float, now: float) -> bool:
        """Return True, once for each promise, if room for this cost was promised to the client by now."""
        self._open = [each for each in self._open if now <= each.due + PATIENCE_S]
        for each in self._open:
            if (each.client, each.cost) == (client, cost) and each.due <= now:
                self._open.remove(each)
                return True
        return False

    def cost(self, scope: str, request: EngineRequest, most: float, *, of_its_client: bool = False) -> float:
        """Return the cost that a limit promised to other requests, of all clients or of the client of a request.

        One promise counts as `most` at most: no request holds more than the share of its client.
        """
        others = (each for each in self._open if each.scope == scope and each.request_id != request.id)
        return sum(min(each.cost, most) for each in others if not of_its_client or each.client == request.client)


@dataclass
class _Reservation:
    client: str
    cost: float
    per_sample: float
    deadline: float
    small: bool

    def remaining(self, rate: float, now: float) -> float:
        """Return the cost that will still be computed: at most that of the time until the deadline."""
        return min(self.cost, rate * max(0.0, self.deadline - now))


@dataclass
class AdmissionController:
    """The queue's limits for all clients together and for one client.

    A client holds at most its share of the queue, however large its requests are: the scheduler gives every request an
    equal part of the device, so the rest of a large request delays nobody more than its share does. Small requests have
    a short queue of their own, but for those of jobs. A client that is refused gets a promise: it is admitted when it
    comes back in time.

    Attributes:
        seconds: the computing time that the queue may hold.
        client_share: the part of the queue that one client may hold.
        rate: cost per second of the engine.
        clock: the time of day in seconds, for deadlines.
    """

    seconds: float
    client_share: float
    rate: float = RATE
    clock: Callable[[], float] = time.time
    _reservations: dict[str, _Reservation] = field(default_factory=dict)
    _promises: Promises = field(default_factory=Promises)

    @property
    def limit(self) -> float:
        """The cost that the queue may hold."""
        return self.seconds * self.rate

    @property
    def client_limit(self) -> float:
        """The cost that one client may hold."""
        return self.limit * self.client_share

    @property
    def queued(self) -> float:
        """The cost of all waiting and running samples."""
        return self._by_client(self._reservations.values()).total()

    @property
    def queued_seconds(self) -> float:
        """The time that all waiting and running samples will take."""
        return self.queued / self.rate

    def admit(self, request: EngineRequest) -> None:
        """Reserve room for a request, or promise it.

        A request larger than its client's share is admitted where its client holds little.

        Raises:
            Overloaded: there is no room, for this client or for all, with the seconds until there is.
        """
        costs, now = sample_costs(request), self.clock()
        amount = sum(costs)
        small = amount <= SMALL_REQUEST and not request.background
        works = self._by_client(self._reservations.values())
        if not self._is_promised(request.client, amount, works, now):
            for check in (self._check_small,) if small else (self._check_client, self._check_service):
                check(request, amount, works)
        self._promises.withdraw(request.id)
        deadline = math.inf if request.deadline is None else request.deadline
        per_sample = amount / max(1, len(costs))
        self._reservations[request.id] = _Reservation(request.client, amount, per_sample, deadline, small)

    def sample_finished(self, request_id: str) -> None:
        """Give back the room of one sample."""
        if reservation := self._reservations.get(request_id):
            reservation.cost = max(0.0, reservation.cost - reservation.per_sample)

    def release(self, request_id: str) -> None:
        """Give back the room of a request that has ended."""
        self._reservations.pop(request_id, None)

    def _by_client(self, reservations: Iterable[_Reservation]) -> Works:
        works, now = Works(), self.clock()
        for reservation in reservations:
            works[reservation.client] += reservation.remaining(self.rate, now)  # type: ignore[assignment]
        return works

    def _is_promised(self, client: str, amount: float, works: Works, now: float) -> bool:
        # The rate may have been lower than expected: a queue that is much too long is not made longer.
        return self._promises.redeem(client, amount, now) and self._held(works) <= (1 + KEPT) * self.limit

    def _check_client(self, request: EngineRequest, amount: float, works: Works) -> None:
        client, most = request.client, self.client_limit - RESERVE * self.limit
        counted = most if amount > self.client_limit else amount
        # Promises to a client that holds little are no reason to refuse it: they are kept in any case.
        holds_much = works[client] > RESERVE * self.limit
        scopes: Sequence[Scope] = ("client", "service") if holds_much else ()
        promised = sum(self._promises.cost(scope, request, most, of_its_client=True) for scope in scopes)
        excess = works[client] + promised + counted - self.client_limit
        if excess > 0:
            wait = self._seconds_of(excess, Works({**works, client: max(excess, works[client])}))
            raise self._refusal("client", request, amount, works[client], wait)

    def _check_service(self, request: EngineRequest, amount: float, works: Works) -> None:
        held, counted = self._held(works), min(amount, self.client_limit)
        promised = self._promises.cost("service", request, self.client_limit)
        # The reserve is for clients that hold nothing, whatever was promised to others.
        limit = self.limit - promised if works[request.client] else self.limit * (1 + RESERVE)
        if held + counted > limit:
            wait = self._seconds_of(self._level(works, self.limit - counted), works) + promised / self.rate
            raise self._refusal("service", request, amount, held, wait)

    def _check_small(self, request: EngineRequest, amount: float, works: Works) -> None:
        small = self._by_client(each for each in self._reservations.values() if each.small).total()
        most = max(SMALL_S * self.rate, SMALL_REQUEST)
        promised = self._promises.cost("small", request, most)
        if small + amount > (most - promised if works[request.client] else most * (1 + SMALL_RESERVE)):
            raise self._refusal("small", request, amount, small, (small + promised + amount - most) / self.rate)

    def _seconds_of(self, level: float, works: Works) -> float:
        """Return the seconds until each client has been served for a cost, or is finished: they share the device."""
        return sum(min(work, level) for work in works.values()) / self.rate

    def _held(self, works: Works, served: float = 0.0) -> float:
        """Return the part of the queue that clients hold after each of them has been served for some cost."""
        return sum(min(self.client_limit, max(0.0, work - served)) for work in works.values())

    def _level(self, works: Works, room: float) -> float:
        """Return the cost for which each client must be served until all together hold at most `room`."""
        low, high = 0.0, max(works.values(), default=0.0)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._held(works, middle) > room else (low, middle)
        return high

    def _refusal(self, scope: Scope, request: EngineRequest, amount: float, held: float, wait: float) -> Overloaded:
        wait = max(1.0, wait)
        if wait <= MAX_WAIT_S:
            self._promises.add(Promise(request.id, request.client, scope, amount, self.clock() + wait))
        holds, needs = _seconds(held / self.rate), _seconds(amount / self.rate)
        detail = f"{QUEUES[scope]} holds {holds} of computing and this request needs {needs}"
        return Overloaded("client" if scope == "client" else "service", wait, detail)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
