"""The context of a request: its ids, log line, counts, path prefix, security headers, and the answer to a defect."""

import re
import secrets
import time
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from asgi_correlation_id import correlation_id
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.handlers.context import CallerGone
from enflow.service.problems import from_exception
from enflow.service.settings import PATH_PREFIX
from enflow.service.telemetry import Telemetry

CLIENT_CLOSED = 499
"""Status in logs and metrics of a request whose client closed the connection; nginx's number, nothing is sent."""

PROBED = ("/health/", "/metrics")
"""Routes that machines ask every few seconds; their log lines have the level `debug`."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

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
"""Headers of every response that does not set them itself."""

log = structlog.get_logger("enflow")


class RequestContextMiddleware:
    """Bind request and trace ids to the logs, count the request, add `SECURITY_HEADERS`, answer a defect with 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        _to_origin_form(scope)
        ids = {"request_id": correlation_id.get(), "trace_id": trace_id(Headers(scope=scope))}
        scope.setdefault("state", {}).update(request_id=ids["request_id"], arrived=time.time())
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(**ids), self.telemetry.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, send_with_headers)
            except (CallerGone, ClientDisconnect):
                status = CLIENT_CLOSED
            except Exception as error:  # noqa: BLE001 - the outermost layer: nothing may escape
                log.error("defect", error=type(error).__name__, frames=frames_of(error))
                if not status:
                    await send_problem(from_exception(error), scope, send_with_headers)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")  # never the path itself: anybody can make up paths
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self.telemetry.requests.labels(method, route, str(status)).inc()
        self.telemetry.request_seconds.labels(route).observe(seconds)
        write = log.debug if route.startswith(PROBED) else log.info
        write("request", method=method, route=route, status=status, ms=round(1000 * seconds, 1))


def _to_origin_form(scope: Scope) -> None:
    """Take the path from a target such as http://host/sample: a server accepts it (RFC 9112, section 3.2.2)."""
    if not scope["path"].startswith("/"):
        path = urlsplit(scope["path"]).path or "/"
        scope.update(path=path, raw_path=path.encode())


def is_request_id(text: str) -> bool:
    """Return True for an `X-Request-ID` that is safe in logs and headers: 1 to 64 of letters, digits, `.`, `_`, `-`."""
    return _REQUEST_ID.fullmatch(text) is not None


def new_request_id() -> str:
    """Return a random request id."""
    return secrets.token_hex(8)


def trace_id(headers: Headers) -> str:
    """Return the trace id of a well-formed `traceparent` (W3C Trace Context, section 3.2), else a new one."""
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return parent[1] if parent else secrets.token_hex(16)


def frames_of(error: BaseException) -> list[str]:
    """Return the places that an exception went through, innermost last.

    Its message is left out: it may hold a piece of an upload.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-12:]]


class PathPrefixMiddleware:
    """Put the prefix of a proxy into `root_path`, from where the router and the OpenAPI description take it.

    A proxy may leave the prefix in the path or remove it; by ASGI `path` has it. The links of the pages are relative,
    so a wrong X-Forwarded-Prefix harms only its sender.

    Args:
        app: the application inside.
        prefix: the prefix; empty takes that of the header X-Forwarded-Prefix.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (prefix := self.prefix or _forwarded(Headers(scope=scope))):
            await self.app(scope, receive, send)
        elif scope["path"] == prefix and scope["method"] in ("GET", "HEAD"):
            await RedirectResponse(f"{prefix}/")(scope, receive, send)  # relative links need the slash
        else:
            path = scope["path"]
            scope.update(root_path=prefix, path=path if path.startswith(f"{prefix}/") else prefix + path)
            await self.app(scope, receive, send)


def _forwarded(headers: Headers) -> str:
    """Return the prefix that a proxy names; empty where there is none or it is no path."""
    prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    return prefix if re.fullmatch(PATH_PREFIX, prefix) else ""
