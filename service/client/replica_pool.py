"""The interface of a replica pool: many engines that can each run any request."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from enflow.model.errors import EnflowError
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats


@dataclass(frozen=True)
class ReplicaStatus:
    """The status of one replica; `rate` in pairs of atoms times evaluations per second."""

    replica: str
    pid: int
    stats: Stats
    health: Health
    rate: float


class ReplicaLost(EnflowError):  # noqa: N818 - an event
    """A replica ended or failed before its request did."""


class ReplicaPool(Protocol):
    """The replicas of an engine."""

    def run(self, request: EngineRequest, answered: frozenset[int]) -> AsyncGenerator[Sequence[Event], None]:
        """Run a request without its answered samples on a replica with a short queue; yield lists of events.

        Raises:
            ReplicaLost: the replica ended before the request.
            Unavailable: the replica accepts no requests now.
        """

    async def statuses(self) -> Sequence[ReplicaStatus]:
        """Return the status of every replica.

        Raises:
            TimeoutError: not all replicas answered.
        """
