"""A client that starts its engine with the first request, so that a model in reserve costs neither memory nor time."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

from enflow.service.client.config import ClientConfig
from enflow.service.client.process_client import ProcessClient, engine_client
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats
from enflow.service.settings import Settings


class LazyClient:
    """A client whose engine starts with the first request.

    Args:
        client: a client that is not started.
    """

    def __init__(self, client: ProcessClient) -> None:
        self._client = client
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do nothing; the first request starts the engine."""

    async def submit(self, request: EngineRequest, answered: frozenset[int] = frozenset()) -> None:
        """Submit a request; the first one waits in the queue until the engine is ready."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._client.start())
        await asyncio.shield(self._starting)  # a cancelled caller must not cancel the start
        await self._client.submit(request, answered)

    def events(self, request_id: str) -> AsyncIterator[Event]:
        """Return the events of a request; `Done` is the last."""
        return self._client.events(request_id)

    async def abort(self, request_id: str) -> None:
        """Abort a request; do nothing if it has ended."""
        await self._client.abort(request_id)

    async def drain(self, timeout: float) -> None:
        """Accept no new requests, and return when all have ended or after `timeout` seconds."""
        await self._client.drain(timeout)

    def stats(self) -> Stats:
        """Return the state and the counters."""
        return self._client.stats() if self._starting else Stats()

    def health(self) -> Health:
        """Return the health; an engine that waits for its first request counts as ready."""
        if self._starting:
            return self._client.health()
        return Health(True, True, "the engine starts with the first request", math.inf)

    async def close(self) -> None:
        """Stop the engine; unfinished samples fail."""
        if self._starting:
            await self._starting
            await self._client.close()


def further_clients(settings: Settings, config: ClientConfig | None = None) -> dict[Path, ProcessClient | LazyClient]:
    """Return the clients of all models but the first, by the folder of their weights; none is started."""
    return {folder: LazyClient(engine_client(settings, config, folder)) for folder in settings.further}
