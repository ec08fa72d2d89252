"""Answers that are told as they happen: JSON lines and server-sent events."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enflow.service.handlers.cancellation import CallerGone, unless_stopped
from enflow.service.handlers.context import Emit
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import SSE
from enflow.service.problems import Problem, from_exception
from enflow.service.rendering.answer import Answer

SILENCE_S = 2.0
"""After so long without an event the state of the queue is told: proxies close silent connections, people give up."""


async def hang_up(receive: Receive) -> None:
    """Return when the client has gone away; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response whose body grows while `produce` emits; an error before the first event is an ordinary problem."""

    def __init__(
        self, media_type: str, produce: Callable[[Emit], Awaitable[Answer]], desk: ServedModel, deadline: float
    ) -> None:
        super().__init__(media_type=media_type)
        self.produce = produce
        self.desk = desk
        self.deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = _Line(str(self.media_type), send)
        pulse = asyncio.create_task(self._pulse(line))
        try:
            work = self.produce(line.emit)
            answer = await unless_stopped(work, hang_up(receive), self.desk.stopping, self.deadline)
            await line.emit("done", {k: v for k, v in answer.document.items() if k not in ("molecules", "results")})
        except CallerGone:
            raise
        except Exception as error:
            if not line.open:
                raise
            # The status is long sent: the error is the last event.
            await line.emit("error", {"problem": from_exception(error).document(scope["state"]["request_id"])})
            await line.close()
            if not isinstance(error, Problem):
                raise
        else:
            await line.close()
        finally:
            pulse.cancel()

    async def _pulse(self, line: "_Line") -> None:
        while True:
            line.spoke.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await line.spoke.wait()
            except TimeoutError:
                if line.open:
                    await line.emit("progress", self.desk.queue())


class _Line:
    """The open connection."""

    def __init__(self, media_type: str, send: Send) -> None:
        self.media_type = media_type
        self.send = send
        self.open = False
        self.spoke = asyncio.Event()

    async def emit(self, name: str, fields: dict[str, Any]) -> None:
        self.spoke.set()
        if not self.open:
            self.open = True
            await self.send({"type": "http.response.start", "status": 200, "headers": self._headers()})
        text = json.dumps({"event": name, **fields}, ensure_ascii=False, allow_nan=False)
        line = f"event: {name}\ndata: {text}\n\n" if self.media_type == SSE else f"{text}\n"
        await self.send({"type": "http.response.body", "body": line.encode(), "more_body": True})

    async def close(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", f"{self.media_type}; charset=utf-8".encode()),
            (b"cache-control", b"no-store"),
            (b"vary", b"Accept"),
            (b"x-accel-buffering", b"no"),
        ]
