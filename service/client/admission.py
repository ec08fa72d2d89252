"""Backpressure: the queue is bounded in work, not in requests, and says when to come back."""

from dataclasses import dataclass, field

from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EstimatorOptions,
)
from enflow.service.protocol.status import Overloaded

EVALUATIONS, TOLERANCE = 44, 1e-3
"""Of one molecule's way at that tolerance (measured: 43); an integrator of order 5 needs tol^(-1/5) of them."""

SINGLE, DOUBLE = 1e-7, 3.0
"""The tolerance below which rows are stepped in double precision, and what an evaluation then costs."""

NODES = 37
"""Values of the divergence that a likelihood takes at that tolerance (measured: 21 to 56); twice as many at 1e-5."""

TYPICAL_ATOMS = 18
"""Of a molecule whose size will be drawn."""

RATE = 1e5
"""Units a core does in a second, until the engine tells its own."""


def units(work: EngineRequest) -> float:
    """The work in a work: pairs of atoms times evaluations of the velocity, as far as one can know before."""
    match work:
        case EngineSampleRequest():
            drawn, way = [n or TYPICAL_ATOMS for n in work.n_atoms], _way(work.rtol)
            return sum(n**2 * (way + (_scoring(work.nll, n) if work.nll else 0.0)) for n in drawn)
        case EngineLikelihoodRequest():
            return sum(
                len(m.atomic_numbers) ** 2 * _scoring(work.options, len(m.atomic_numbers)) for m in work.molecules
            )
        case _:
            return len(work) * TYPICAL_ATOMS**2 * _way(work.rtol)


def _way(rtol: float) -> float:
    return float(EVALUATIONS * (TOLERANCE / rtol) ** 0.2) * (DOUBLE if rtol < SINGLE else 1.0)


def _scoring(options: EstimatorOptions, n_atoms: int) -> float:
    # An exact value takes 8 dimensions an atom at seven tenths of an evaluation each, a probe three evaluations.
    nodes = NODES * (TOLERANCE / options.rtol) ** 0.15
    values = 5.6 * n_atoms * nodes if options.exact else 3 * 32 * options.probes_per_node
    return float(options.first_draws * (_way(options.rtol / 3000) + values))  # its path is solved so much more tightly


@dataclass
class _Claim:
    client: str
    amount: float
    each: float


@dataclass
class AdmissionController:
    """Lets work in while the queue has room.

    Args:
        seconds: of work that the whole queue may hold.
        client_share: the part of it that one client may hold.
    """

    seconds: float
    client_share: float
    rate: float = RATE
    _held: "dict[str, _Claim]" = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """Units that the queue may hold."""
        return self.seconds * self.rate

    @property
    def queued(self) -> float:
        """Units in the queue, running ones included."""
        return sum(claim.amount for claim in self._held.values())

    def admit(self, work: EngineRequest) -> None:
        """Let a work in. What is larger than the whole queue gets in when the queue is empty: else it never would.

        Raises:
            Overloaded: no room, for this client or for anybody; with the seconds until there is.
        """
        amount = units(work)
        mine = sum(claim.amount for claim in self._held.values() if claim.client == work.client)
        self._check("service", self.queued, amount, self.limit)
        self._check("client", mine, amount, self.limit * self.client_share)
        self._held[work.id] = _Claim(work.client, amount, amount / max(1, len(work)))

    def answered(self, work: str) -> None:
        """A molecule of a work has been answered."""
        if claim := self._held.get(work):
            claim.amount = max(0.0, claim.amount - claim.each)

    def release(self, work: str) -> None:
        """A work has ended, or has left."""
        self._held.pop(work, None)

    def _check(self, scope: str, held: float, amount: float, limit: float) -> None:
        if not held or held + amount <= limit:
            return
        wait = max(1.0, min(held, held + amount - limit) / self.rate)
        whose = "the service's queue" if scope == "service" else "this client's share of the queue"
        message = f"{whose} holds {held / self.rate:.0f} s of work, expected at most {limit / self.rate:.0f} s"
        raise Overloaded("service" if scope == "service" else "client", wait, message)
