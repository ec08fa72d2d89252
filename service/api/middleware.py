"""What surrounds every request, as pure ASGI: ids, logs, counts, security headers, keys, rates, and bounded bodies.

Not BaseHTTPMiddleware: with one of those a disconnect is never seen by what runs inside it (starlette 1.10, measured).
"""

import asyncio
import re
import secrets
import time
import traceback
from pathlib import Path

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enflow.service.api.auth import ApiKeys
from enflow.service.handlers.cancellation import CallerGone
from enflow.service.problems import MEDIA_TYPE, Problem, from_exception, retry_after
from enflow.service.settings import RequestLimits
from enflow.service.telemetry import Telemetry

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

CLIENT_CLOSED = 499
"""Status in logs and metrics of a request whose caller went away; nginx's number, nothing is sent."""

PROBED = ("/health/", "/metrics")
"""Asked every few seconds by machines, which see the answer."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

log = structlog.get_logger("enflow")


async def send_problem(problem: Problem, scope: Scope, send: Send) -> None:
    """Answer with a problem, outside of any route."""
    body = problem.body(scope["state"]["request_id"])
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.kind.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class RequestContextMiddleware:
    """The outermost layer: request id, trace, log line, counts; whatever escapes from inside becomes a 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, trace_id = identify(Headers(scope=scope))
        scope.setdefault("state", {}).update(request_id=request_id, arrived=time.time())
        status = 0
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id, trace_id=trace_id):
            self.telemetry.in_flight.inc()
            try:
                await self.app(scope, receive, send_with_headers)
            except (CallerGone, ClientDisconnect):
                status = CLIENT_CLOSED
            except Exception as error:  # noqa: BLE001 - the outermost layer: nothing may escape
                log.error("defect", error=type(error).__name__, frames=frames_of(error))
                if not status:
                    await send_problem(from_exception(error), scope, send_with_headers)
            finally:
                self.telemetry.in_flight.dec()
                self._tell(scope, status, time.perf_counter() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")  # never the path itself: anybody can make up paths
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self.telemetry.request(method, route, status, seconds)
        tell = log.debug if route.startswith(PROBED) else log.info
        tell("request", method=method, route=route, status=status, ms=round(1000 * seconds, 1))


class AdmissionMiddleware:
    """Who may call, how often, and how many at once."""

    def __init__(self, app: ASGIApp, access: ApiKeys, most: int) -> None:
        self.app = app
        self.access = access
        self.most = most
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            scope["state"]["client"] = self._admitted(scope)
        except Problem as problem:
            await send_problem(problem, scope, send)
            return
        self.open += scope["method"] == "POST"
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= scope["method"] == "POST"

    def _admitted(self, scope: Scope) -> str:
        host = (scope.get("client") or ("local", 0))[0]
        client = self.access.admit(scope["method"], scope["path"], Headers(scope=scope), host)
        if scope["method"] == "POST" and self.open >= self.most:
            raise Problem("unavailable", f"found {self.open} open requests, expected fewer", headers=retry_after(5))
        return client


class BodyLimitMiddleware:
    """A body arrives whole within its limits of bytes and time, or not at all."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > self.limits.max_bytes:
            await send_problem(_too_large(self.limits), scope, send)
        else:
            await self.app(scope, _Body(receive, self.limits), send)


def _too_large(limits: RequestLimits) -> Problem:
    return Problem("too-large", f"expected a body of at most {limits.max_bytes} bytes", headers={"Connection": "close"})


class _Body:
    """`receive` with an eye on size and pace while the body comes; afterwards it may wait for a disconnect for ever."""

    def __init__(self, receive: Receive, limits: RequestLimits) -> None:
        self.receive = receive
        self.limits = limits
        self.size = 0
        self.complete = False
        self.late = 0.0

    async def __call__(self) -> Message:
        if self.complete:
            return await self.receive()
        message = await self._in_time()
        self.size += len(message.get("body", b""))
        if self.size > self.limits.max_bytes:
            raise _too_large(self.limits)
        self.complete = not message.get("more_body", False)
        return message

    async def _in_time(self) -> Message:
        now = time.monotonic()
        self.late = self.late or now + self.limits.max_body_s
        try:
            async with asyncio.timeout(min(self.limits.max_idle_s, self.late - now)):
                return await self.receive()
        except TimeoutError:
            limits = self.limits
            detail = f"expected the body within {limits.max_body_s:g} s, without a pause of {limits.max_idle_s:g} s"
            raise Problem("request-timeout", detail, headers={"Connection": "close"}) from None


def identify(headers: Headers) -> tuple[str, str]:
    """The request's id and its trace's: the caller's where they are well formed, else new ones."""
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return request_id, parent[1] if parent else secrets.token_hex(16)


def frames_of(error: BaseException) -> list[str]:
    """Where an exception came from, innermost last; not its message, which may hold a piece of an upload."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
