"""Admission control: the queue is bounded by the cost of the requests, not by their number."""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EstimatorOptions,
)
from enflow.service.protocol.status import Overloaded

EVALUATIONS, TOLERANCE = 44, 1e-3
"""Evaluations for one molecule at this tolerance (measured: 43). A solver of order 5 needs tol^(-1/5) of them."""

DOUBLE_BELOW, DOUBLE_COST = 1e-7, 3.0
"""The tolerance below which rows are computed in float64, and the cost of an evaluation there."""

NODES = 37
"""Values of the divergence for one likelihood at this tolerance (measured: 21 to 56); twice as many at 1e-5."""

PROBED_NODES = 32
"""Nodes of an estimated divergence; every node has a new probe."""

TYPICAL_ATOMS = 18
"""Atoms of a molecule whose size is not known yet."""

RATE = 1e5
"""Pairs of atoms times evaluations that one core computes per second, until the engine reports its own rate."""

RESERVE = 0.1
"""The part of the queue that is added for clients who hold nothing in it, so that no others can keep them out. A
request of any size is also admitted beside smaller requests of its client that hold less than this part."""


def sample_costs(request: EngineRequest) -> list[float]:
    """Return the estimated cost of each sample of a request, in pairs of atoms times evaluations of the velocity."""
    match request:
        case EngineSampleRequest():
            return [(n or TYPICAL_ATOMS) ** 2 * _path_evaluations(request.rtol) for n in request.n_atoms]
        case EngineLikelihoodRequest():
            sizes = [len(molecule.atomic_numbers) for molecule in request.molecules]
            return [n**2 * _likelihood_evaluations(request.options, n) for n in sizes]
        case _:
            return [TYPICAL_ATOMS**2 * _path_evaluations(request.rtol)] * len(request)


def _path_evaluations(rtol: float) -> float:
    return float(EVALUATIONS * (TOLERANCE / rtol) ** 0.2) * (DOUBLE_COST if rtol < DOUBLE_BELOW else 1.0)


def _likelihood_evaluations(options: EstimatorOptions, n_atoms: int) -> float:
    # The exact trace has 8 directions per atom at 0.7 evaluations each; a probe costs 3 evaluations.
    nodes = NODES * (TOLERANCE / options.rtol) ** 0.15
    values = 5.6 * n_atoms * nodes if options.exact else 3 * PROBED_NODES * options.probes_per_node
    path = _path_evaluations(options.rtol / 3000)  # the trajectory of a likelihood has a tighter tolerance
    return float(options.first_draws * (path + values))


@dataclass
class _Reservation:
    client: str
    cost: float
    per_sample: float
    deadline: float

    def remaining(self, rate: float, now: float) -> float:
        """Return the cost that will still be computed: at most that of the time until the deadline."""
        return min(self.cost, rate * max(0.0, self.deadline - now))


@dataclass
class AdmissionController:
    """The queue's limits for all clients together and for one client.

    A client holds at most its share of the queue, however large its requests are: the scheduler gives every request an
    equal part of the device, so the rest of a large request delays nobody more than its share does.

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
        return self._by_client().total()

    @property
    def queued_seconds(self) -> float:
        """The time that all waiting and running samples will take."""
        return self.queued / self.rate

    def admit(self, request: EngineRequest) -> None:
        """Reserve room for a request. A request larger than its client's share is admitted where that is nearly free.

        Raises:
            Overloaded: there is no room, for this client or for all, with the seconds until there is.
        """
        costs = sample_costs(request)
        full = sum(costs)
        amount = min(full, self.client_limit - RESERVE * self.limit) if full > self.client_limit else full
        works = self._by_client()
        own, held = works[request.client], self._held(works.values())
        limit = self.limit if own else self.limit * (1 + RESERVE)
        if own + amount > self.client_limit:
            raise self._refusal("client", own, full, own + amount - self.client_limit, works)
        if held + amount > limit:
            raise self._refusal("service", held, full, self._level(works.values(), limit - amount), works)
        deadline = math.inf if request.deadline is None else request.deadline
        self._reservations[request.id] = _Reservation(request.client, full, full / max(1, len(costs)), deadline)

    def sample_finished(self, request_id: str) -> None:
        """Give back the room of one sample."""
        if reservation := self._reservations.get(request_id):
            reservation.cost = max(0.0, reservation.cost - reservation.per_sample)

    def release(self, request_id: str) -> None:
        """Give back the room of a request that has ended."""
        self._reservations.pop(request_id, None)

    def _by_client(self) -> "Counter[str]":
        works: Counter[str] = Counter()
        now = self.clock()
        for reservation in self._reservations.values():
            works[reservation.client] += reservation.remaining(self.rate, now)  # type: ignore[assignment]
        return works

    def _held(self, works: Collection[float], served: float = 0.0) -> float:
        """Return the part of the queue that clients hold after each of them has been served for some cost."""
        return sum(min(self.client_limit, max(0.0, work - served)) for work in works)

    def _level(self, works: Collection[float], room: float) -> float:
        """Return the cost for which each client must be served until all together hold at most `room`."""
        low, high = 0.0, max(works, default=0.0)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._held(works, middle) > room else (low, middle)
        return high

    def _refusal(
        self, scope: Literal["client", "service"], held: float, amount: float, level: float, works: "Counter[str]"
    ) -> Overloaded:
        # Clients share the device: by the time that one of them was served for `level`, so were the others.
        wait = max(1.0, sum(min(work, level) for work in works.values()) / self.rate)
        queue, limit = "the service's queue", self.limit
        if scope == "client":
            queue, limit = "this client's share of the queue", self.client_limit
        holds, needs = _seconds(held / self.rate), _seconds(amount / self.rate)
        expected = f"expected at most {_seconds(limit / self.rate)} together"
        return Overloaded(scope, wait, f"{queue} holds {holds} of computing and this request needs {needs}, {expected}")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
