"""Limits of a request body: its size, its duration, the pause between two pieces of it, and the memory of all."""

import asyncio
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.problems import Problem, retry_after
from enflow.service.settings import RequestLimits

FREE_BYTES = 65_536
"""The first bytes of a body, which are always taken; the server buffers as many for each connection."""


class BodyLimitMiddleware:
    """Refuse a body that is larger or slower than the limits allow, or for which there is no memory now.

    Args:
        app: the application inside.
        limits: the limits of one body.
        max_arriving: bytes of all bodies that still arrive, without the first `FREE_BYTES` of each.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits, max_arriving: int) -> None:
        self.app = app
        self.limits = limits
        self.memory = _Memory(max_arriving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if "content-length" in headers and "transfer-encoding" in headers:
            await send_problem(_AMBIGUOUS, scope, send)
            return
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > self.limits.max_bytes:
            await send_problem(_too_large(self.limits), scope, send)
            return
        body = _LimitedReceive(receive, self.limits, self.memory)
        try:
            await self.app(scope, body, send)
        finally:
            body.release()


# A proxy that counts by the other header would see another end of the body (RFC 9112, section 6.3).
_AMBIGUOUS = Problem(
    "malformed", "found Content-Length and Transfer-Encoding, expected one of them", headers={"Connection": "close"}
)


def _too_large(limits: RequestLimits) -> Problem:
    return Problem("too-large", f"expected a body of at most {limits.max_bytes} bytes", headers={"Connection": "close"})


@dataclass
class _Memory:
    """The bytes that arriving bodies hold, and the most that they may hold."""

    limit: int
    held: int = 0

    def take(self, size: int) -> None:
        if size and self.held + size > self.limit:
            detail = "found too many large bodies that have not arrived yet"
            raise Problem("unavailable", detail, headers={**retry_after(5), "Connection": "close"})
        self.held += size


class _LimitedReceive:
    """`receive` with limits while the body comes; the wait for a disconnect after the body has none."""

    def __init__(self, receive: Receive, limits: RequestLimits, memory: _Memory) -> None:
        self.receive = receive
        self.limits = limits
        self.memory = memory
        self.size = 0
        self.complete = False
        self.deadline = 0.0

    async def __call__(self) -> Message:
        if self.complete:
            return await self.receive()
        message = await self._receive_in_time()
        size, counted = self.size + len(message.get("body", b"")), self._counted
        if size > self.limits.max_bytes:
            raise _too_large(self.limits)
        self.memory.take(max(0, size - FREE_BYTES) - counted)
        self.size = size
        if not message.get("more_body", False):
            self.release()
            self.complete = True
        return message

    def release(self) -> None:
        """Give the memory back; the body has arrived, or the request has ended."""
        if not self.complete:
            self.memory.held -= self._counted

    @property
    def _counted(self) -> int:
        return max(0, self.size - FREE_BYTES)

    async def _receive_in_time(self) -> Message:
        now = time.monotonic()
        self.deadline = self.deadline or now + self.limits.max_body_s
        try:
            async with asyncio.timeout(min(self.limits.max_idle_s, self.deadline - now)):
                return await self.receive()
        except TimeoutError:
            limits = self.limits
            detail = f"expected the body within {limits.max_body_s:g} s, without a pause of {limits.max_idle_s:g} s"
            raise Problem("request-timeout", detail, headers={"Connection": "close"}) from None
