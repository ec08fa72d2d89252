"""Limits of a request body: its size, its duration, and the pause between two pieces of it."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.problems import Problem
from enflow.service.settings import RequestLimits


class BodyLimitMiddleware:
    """Refuse a body that is larger or slower than the limits allow."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if "content-length" in headers and "transfer-encoding" in headers:
            await send_problem(_AMBIGUOUS, scope, send)
        elif not declared.isdecimal() or len(declared) > 18 or int(declared) > self.limits.max_bytes:
            await send_problem(_too_large(self.limits), scope, send)
        else:
            await self.app(scope, _LimitedReceive(receive, self.limits), send)


# A proxy that counts by the other header would see another end of the body (RFC 9112, section 6.3).
_AMBIGUOUS = Problem(
    "malformed", "found Content-Length and Transfer-Encoding, expected one of them", headers={"Connection": "close"}
)


def _too_large(limits: RequestLimits) -> Problem:
    return Problem("too-large", f"expected a body of at most {limits.max_bytes} bytes", headers={"Connection": "close"})


class _LimitedReceive:
    """`receive` with limits while the body comes; the wait for a disconnect after the body has none."""

    def __init__(self, receive: Receive, limits: RequestLimits) -> None:
        self.receive = receive
        self.limits = limits
        self.size = 0
        self.complete = False
        self.deadline = 0.0

    async def __call__(self) -> Message:
        if self.complete:
            return await self.receive()
        message = await self._receive_in_time()
        self.size += len(message.get("body", b""))
        if self.size > self.limits.max_bytes:
            raise _too_large(self.limits)
        self.complete = not message.get("more_body", False)
        return message

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
