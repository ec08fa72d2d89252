"""A client of an engine in this thread, which the commands use in the place of a process."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from enflow.service.protocol.events import Done, Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats

if TYPE_CHECKING:
    from enflow.service.engine.core import Engine


class OfflineClient:
    """A client of an engine in this thread, without limits of its queue; see `EngineClient`."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._events: dict[str, asyncio.Queue[Event]] = {}
        self._busy = asyncio.Event()
        self._cancelled = False

    async def step_forever(self) -> None:
        """Step the engine while it has work; other tasks run between two steps."""
        while True:
            await self._busy.wait()
            while not self._engine.idle:
                for event in self._engine.step():
                    self._events[event.id].put_nowait(event)
                await asyncio.sleep(0)
            self._busy.clear()

    async def start(self) -> None:
        """Do nothing: the engine is loaded."""

    async def submit(self, request: EngineRequest) -> None:
        """Submit a request."""
        self._events[request.id] = asyncio.Queue()
        self._engine.add(request)
        if self._cancelled:
            self._engine.abort(request.id)
        self._busy.set()

    async def events(self, request_id: str) -> AsyncIterator[Event]:
        """Give the events of a request; `Done` is the last."""
        while True:
            event = await self._events[request_id].get()
            yield event
            if isinstance(event, Done):
                del self._events[request_id]
                return

    async def abort(self, request_id: str) -> None:
        """Abort a request; do nothing if it has ended."""
        self._engine.abort(request_id)

    def cancel_all(self) -> None:
        """Abort every request, now and later; the samples that are finished are kept."""
        self._cancelled = True
        for request_id in self._events:
            self._engine.abort(request_id)

    async def drain(self, timeout: float) -> None:
        """Do nothing: a command ends with its request."""

    def stats(self) -> Stats:
        """Return no numbers: there is no queue of others."""
        return Stats()

    def health(self) -> Health:
        """Return the health of a running engine."""
        return Health(live=True, ready=True, reason="", step_age=0.0)

    async def close(self) -> None:
        """Do nothing: the engine ends with the process."""
