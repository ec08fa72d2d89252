"""A uvicorn server that closes stalled and idle connections, and that stops in time although streams are open."""

import asyncio
import functools
import resource
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.lifespan.on import LifespanOn, LifespanSendMessage
from uvicorn.protocols.http.h11_impl import H11Protocol

from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.problems import MEDIA_TYPE, Problem
from enflow.service.settings import Settings

GRACE_S = 5
"""Seconds from the end of the running requests until open connections are cut."""

LAST_EVENT_S, TICK_S = 1.0, 0.1
"""Seconds in which requests that are ended send their last event, and seconds between two looks at them."""

WARN_S = 60.0
"""Seconds between two warnings that connections are closed."""

MOST_DESCRIPTORS = 2**20
"""The descriptors that are used where the system has no limit."""

log = structlog.get_logger("enflow")


@dataclass
class ConnectionLimit:
    """The number of connections for which there are file descriptors; files and processes need some too.

    A server without a free descriptor cannot accept: asyncio logs thousands of attempts a second, and uvloop drops
    every new connection.

    Attributes:
        descriptors: the descriptors that the process may have (`ulimit -n`).
        most: the most connections.
    """

    descriptors: int
    most: int = MOST_DESCRIPTORS
    _warned: float = -WARN_S

    @property
    def backlog(self) -> int:
        """The connections that the server may accept before it can close one."""
        return max(1, min(2048, self.descriptors // 8))

    def count_descriptors(self) -> None:
        """Give half of the free descriptors to connections."""
        self.most = max(1, (self.descriptors - len(list(Path("/dev/fd").iterdir()))) // 2)

    def warn(self) -> None:
        """Log that connections are closed, at most once in `WARN_S`."""
        if time.monotonic() - self._warned >= WARN_S:
            self._warned = time.monotonic()
            log.warning("too many connections", most=self.most, descriptors=self.descriptors)


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


class Protocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose headers do not come, or whose response is not read.

    uvicorn keeps both open without a limit: a few hundred clients that read nothing would use up all connections. Above
    the limit of connections the one that has been idle for the longest time is closed, or the new one if none is idle.

    Args:
        header_s: seconds that a connection may take to send its headers.
        stall_s: seconds in which the client must read a part of a response that waits for it.
        limit: the number of connections.
    """

    def __init__(self, *args: Any, header_s: float, stall_s: float, limit: ConnectionLimit, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = limit
        self.idle_since = self.loop.time()
        self._header_s = header_s
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_s = stall_s
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first headers."""
        super().connection_made(transport)
        self._update_header_timer()
        if len(self.connections) > self._limit.most:
            self._limit.warn()
            idle = [each for each in self.connections if isinstance(each, Protocol) and each.is_idle]
            min(idle, key=lambda each: each.idle_since, default=self).transport.close()

    @property
    def is_idle(self) -> bool:
        """True where no request is being answered."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def on_response_complete(self) -> None:
        """Note the time at which the connection becomes idle again."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Receive data; the timer runs while they are headers."""
        super().data_received(data)
        self._update_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_header_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer of a client that reads more slowly than the response is written."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(
            self._stall_s, self._check_progress, self.transport.get_write_buffer_size()
        )

    def resume_writing(self) -> None:
        """Stop the timer of a client that has read the response so far."""
        self._stop_stall_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with a problem document."""
        del msg
        problem = Problem("malformed", "the request is not HTTP/1.1")
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
        body = h11.Data(data=problem.body(secrets.token_hex(8)))
        for event in (h11.Response(status_code=400, headers=headers), body, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _update_header_timer(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.timeout_keep_alive_task is not None:
            self._stop_header_timer()  # a request is being answered, or uvicorn's own keep-alive timer runs
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self._header_s, self.transport.close)

    def _check_progress(self, unread: int) -> None:
        still_unread = self.transport.get_write_buffer_size()
        if still_unread < unread:
            self._stall_timer = self.loop.call_later(self._stall_s, self._check_progress, still_unread)
        else:
            self.transport.abort()  # close() would wait until the client has read the rest

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class StartInterruptedError(Exception):
    """A signal has ended the start of the application."""


class Lifespan(LifespanOn):
    """The start and the end of the application. A signal ends the start; uvicorn would wait until it is complete.

    Args:
        server: the server, which receives the signals.
    """

    def __init__(self, server: "Server") -> None:
        super().__init__(server.config)
        self._server = server
        self._running: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Start the application.

        Raises:
            StartInterruptedError: a signal came first; what had begun is closed.
        """
        starting = asyncio.create_task(super().startup())
        while not starting.done():
            if self._server.should_exit and self._running:
                starting.cancel()
                await self._cancel(self._running)
                raise StartInterruptedError
            await asyncio.wait({starting}, timeout=TICK_S)
        await starting

    async def main(self) -> None:
        """Run the application until its end."""
        self._running = asyncio.current_task()
        await super().main()

    async def send(self, message: LifespanSendMessage) -> None:
        """Receive a message of the application; it reports a cancelled start, and a forced end, as an error."""
        if self._server.force_exit:
            self.shutdown_failed = True
        elif not self.startup_failed:
            await super().send(message)

    async def _cancel(self, running: asyncio.Task[None]) -> None:
        self.startup_failed = True  # uvicorn logs the exception of a start that has not failed before
        running.cancel()
        await asyncio.wait({running})


class Server(uvicorn.Server):
    """A uvicorn server that gives running requests the drain time and then ends them; a second signal ends it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._limit = limit = ConnectionLimit(_descriptors())
        protocol = functools.partial(Protocol, header_s=settings.header_s, stall_s=settings.stall_s, limit=limit)
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
                backlog=limit.backlog,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._app = app
        self._drain_s = settings.drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and count the descriptors that the engines left for connections; a signal ends the start."""
        self.lifespan = Lifespan(self)
        with suppress(StartInterruptedError):
            await super().startup(sockets)
            self._limit.count_descriptors()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes, also one before the event loop runs."""
        with self.capture_signals():
            super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after the drain time, or at once where the service already stops."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer new requests with 503, wait for the running ones, end those after the drain time, and stop."""
        registry: ModelRegistry = self._app.state.registry  # type: ignore[attr-defined]
        draining = asyncio.create_task(registry.drain(self._drain_s))
        try:
            await self._finish_requests()
            await super().shutdown(sockets)
        finally:
            draining.cancel()

    async def _finish_requests(self) -> None:
        """Return when no request runs or after the drain time; until then the socket is open, for answers with 503."""
        until = time.monotonic() + self._drain_s + LAST_EVENT_S
        await asyncio.sleep(TICK_S)  # the models refuse work from now on
        while self.server_state.tasks and not self.force_exit and time.monotonic() < until:
            await asyncio.sleep(TICK_S)
        if self.force_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
