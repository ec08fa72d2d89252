"""The interface of an engine client."""

from collections.abc import AsyncIterator
from typing import Protocol

from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats


class EngineClient(Protocol):
    """The interface by which a handler reaches an engine, wherever the engine runs."""

    async def start(self) -> None:
        """Start the engine and return at once; `health` says when it is ready."""

    async def submit(self, request: EngineRequest) -> None:
        """Submit a request.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: the engine accepts no requests now.
        """

    def events(self, request_id: str) -> AsyncIterator[Event]:
        """Return the events of a request; `Done` is the last."""

    async def abort(self, request_id: str) -> None:
        """Abort a request; do nothing if it has ended."""

    async def drain(self, timeout: float) -> None:
        """Accept no new requests, and return when all have ended or after `timeout` seconds."""

    def stats(self) -> Stats:
        """Return the state and the counters."""

    def health(self) -> Health:
        """Return the health."""

    async def close(self) -> None:
        """Stop the engine; unfinished samples fail."""
