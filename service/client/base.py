"""The interface by which a handler reaches an engine."""

from collections.abc import AsyncIterator
from typing import Protocol

from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats


class EngineClient(Protocol):
    """What the application knows of an engine, wherever it runs."""

    async def start(self) -> None:
        """Start the engine; returns at once, `health` says when it is ready."""

    async def submit(self, work: EngineRequest) -> None:
        """Take a work.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: no work is taken now.
        """

    def events(self, work: str) -> AsyncIterator[Event]:
        """What becomes of a work, `Done` last."""

    async def abort(self, work: str) -> None:
        """Stop a work; nothing happens if it has ended."""

    async def drain(self, timeout: float) -> None:
        """Take no new work, and return when all has ended or the time is up."""

    def stats(self) -> Stats:
        """What goes on."""

    def health(self) -> Health:
        """Whether it lives and is ready."""

    async def close(self) -> None:
        """Stop the engine; what still runs fails."""
