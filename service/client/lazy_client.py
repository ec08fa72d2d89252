"""The clients of all models but the first: an engine that nobody asks costs neither memory nor time at the start."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

from enflow.service.client.process_client import InProcessClient, ProcessClient, RestartPolicy, engine_client
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats
from enflow.service.settings import Settings


class LazyClient:
    """A client whose engine starts when the first work comes; from then on it is that client.

    Args:
        client: not started.
    """

    def __init__(self, client: ProcessClient | InProcessClient) -> None:
        self._client = client
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do nothing yet."""

    async def submit(self, work: EngineRequest, answered: frozenset[int] = frozenset()) -> None:
        """As of the client; the first work waits in the queue until the engine is ready."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._client.start())
        await asyncio.shield(self._starting)  # whoever leaves meanwhile does not take the engine along
        await self._client.submit(work, answered)

    def events(self, work: str) -> AsyncIterator[Event]:
        """What becomes of a work, `Done` last."""
        return self._client.events(work)

    async def abort(self, work: str) -> None:
        """Stop a work; nothing happens if it has ended."""
        await self._client.abort(work)

    async def drain(self, timeout: float) -> None:
        """Take no new work, and return when all has ended or the time is up."""
        await self._client.drain(timeout)

    def stats(self) -> Stats:
        """What goes on."""
        return self._client.stats() if self._starting else Stats()

    def health(self) -> Health:
        """An engine that waits for its first work is as good as ready."""
        return self._client.health() if self._starting else Health(True, True, "starts when it is asked", math.inf)

    async def close(self) -> None:
        """Stop the engine; what still runs fails."""
        if self._starting:
            await self._starting
            await self._client.close()


def further_clients(settings: Settings, care: RestartPolicy | None = None) -> dict[Path, ProcessClient | LazyClient]:
    """Of all models but the first, by their folders: the one for formulas at once, the others when they are asked."""
    formulas, others = settings.formula_folder, settings.model_folders
    at_once: dict[Path, ProcessClient | LazyClient] = (
        {formulas: engine_client(settings, care, formulas)} if formulas else {}
    )
    return at_once | {place: LazyClient(engine_client(settings, care, place)) for place in others}
