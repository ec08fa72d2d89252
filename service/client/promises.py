"""Promises: a client that is refused is told when to come back, and then there is room for it."""

from dataclasses import dataclass, field

from enflow.service.protocol.requests import EngineRequest

PATIENCE_S = 5.0
"""Seconds after its time for which a promise is kept."""


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

    def cost(self, scope: str, request: EngineRequest, *, of_its_client: bool = False) -> float:
        """Return the cost that a limit promised to other requests, of all clients or of the client of a request."""
        others = (each for each in self._open if each.scope == scope and each.request_id != request.id)
        return sum(each.cost for each in others if not of_its_client or each.client == request.client)
