"""Admission control: the queue is bounded by the cost of the requests, not by their number."""

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


def cost(request: EngineRequest) -> float:
    """Return the estimated cost of a request, in pairs of atoms times evaluations of the velocity."""
    match request:
        case EngineSampleRequest():
            sizes = [n or TYPICAL_ATOMS for n in request.n_atoms]
            return sum(n**2 for n in sizes) * _path_evaluations(request.rtol)
        case EngineLikelihoodRequest():
            sizes = [len(molecule.atomic_numbers) for molecule in request.molecules]
            return sum(n**2 * _likelihood_evaluations(request.options, n) for n in sizes)
        case _:
            return len(request) * TYPICAL_ATOMS**2 * _path_evaluations(request.rtol)


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


@dataclass
class AdmissionController:
    """The queue's limits for all clients together and for one client.

    Attributes:
        seconds: the computing time that the queue may hold.
        client_share: the part of the queue that one client may hold.
        rate: cost per second of the engine.
    """

    seconds: float
    client_share: float
    rate: float = RATE
    _reservations: dict[str, _Reservation] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """The cost that the queue may hold."""
        return self.seconds * self.rate

    @property
    def queued(self) -> float:
        """The cost of all waiting and running samples."""
        return sum(reservation.cost for reservation in self._reservations.values())

    @property
    def queued_seconds(self) -> float:
        """The time that all waiting and running samples will take."""
        return self.queued / self.rate

    def admit(self, request: EngineRequest) -> None:
        """Reserve room for a request. A request larger than the whole queue is admitted when the queue is empty.

        Raises:
            Overloaded: there is no room, for this client or for all, with the seconds until there is.
        """
        amount = cost(request)
        own = sum(r.cost for r in self._reservations.values() if r.client == request.client)
        self._check("service", self.queued, amount, self.limit)
        self._check("client", own, amount, self.limit * self.client_share)
        self._reservations[request.id] = _Reservation(request.client, amount, amount / max(1, len(request)))

    def sample_finished(self, request_id: str) -> None:
        """Give back the room of one sample."""
        if reservation := self._reservations.get(request_id):
            reservation.cost = max(0.0, reservation.cost - reservation.per_sample)

    def release(self, request_id: str) -> None:
        """Give back the room of a request that has ended."""
        self._reservations.pop(request_id, None)

    def _check(self, scope: Literal["client", "service"], held: float, amount: float, limit: float) -> None:
        if not held or held + amount <= limit:
            return
        wait = max(1.0, min(held, held + amount - limit) / self.rate)
        queue = "the service's queue" if scope == "service" else "this client's share of the queue"
        message = f"{queue} holds {held / self.rate:.0f} s of computing, expected at most {limit / self.rate:.0f} s"
        raise Overloaded(scope, wait, message)
