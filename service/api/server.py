"""One uvicorn process around the application: it drops who stalls, and stops in time although streams are open."""

import asyncio
import functools
import secrets
import socket
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.problems import MEDIA_TYPE, Problem
from enflow.service.settings import Settings

GRACE_S = 5
"""Between the end of the drain time and the moment where open connections are cut."""


class Protocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose headers do not come, or whose answer is not read.

    uvicorn would keep both for ever: a few hundred callers who read nothing would hold every place there is.
    """

    def __init__(self, *args: Any, header_s: float, stall_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_s = header_s
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_s = stall_s
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first headers."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take data; the clock runs while they are headers."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_watching()
        self._stop_stalling()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller is slower than its answer: from now on it must take some of it, again and again."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._stall_s, self._look, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The caller has caught up."""
        self._stop_stalling()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, like every other error."""
        del msg
        problem = Problem("malformed", "the request is not HTTP/1.1")
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
        body = h11.Data(data=problem.body(secrets.token_hex(8)))
        for event in (h11.Response(status_code=400, headers=headers), body, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.timeout_keep_alive_task is not None:
            self._stop_watching()  # a request is being answered, or uvicorn's own clock of silence runs
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self._header_s, self.transport.close)

    def _look(self, unread: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < unread:
            self._stall_timer = self.loop.call_later(self._stall_s, self._look, left)
        else:
            self.transport.abort()  # to close it would wait for the caller to read the rest

    def _stop_stalling(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class Server(uvicorn.Server):
    """A server that lets running work finish for the drain time, and then ends it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        protocol = functools.partial(Protocol, header_s=settings.header_s, stall_s=settings.stall_s)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=protocol,  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(settings.drain_s) + GRACE_S,
            )
        )
        self._app = app
        self._drain_s = settings.drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, wait for what runs, end it after the drain time, and stop."""
        reception: ModelRegistry = self._app.state.reception  # type: ignore[attr-defined]
        draining = asyncio.create_task(reception.drain(self._drain_s))
        try:
            await super().shutdown(sockets)
        finally:
            draining.cancel()
