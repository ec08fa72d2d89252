"""Admission of a request: its host and origin, its API key, the rate of its client, the number of open requests."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enflow.service.api.middleware.problem_response import send_problem
from enflow.service.chemistry.rdkit_pool import current_client
from enflow.service.problems import Problem, retry_after

GUARDED = ("/metrics/", "/jobs/")
"""Paths whose GET requests need a key too."""

PRIVATE_DOMAINS = ("localhost", "local", "internal", "home.arpa")
"""Domains in which nobody can register a public name (RFC 6761, 6762, 8375; ICANN reserved `internal`)."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITE = ("same-origin", "none")
"""Values of Sec-Fetch-Site for a request of the service's own page, and of the user."""


class TrustedOriginMiddleware:
    """Refuse a request for a foreign host name, and a request of a foreign page that would compute.

    A page can give its own name the address of this machine (DNS rebinding); its requests have its name as Host. Names
    that nobody can register are safe: addresses, names without a dot, and those in `PRIVATE_DOMAINS`. Any page can also
    send a form or a text here without asking; `Sec-Fetch-Site`, or else `Origin`, shows that (as in net/http of Go,
    CrossOriginProtection).

    Args:
        app: the application inside.
        hosts: further host names, `*.` before a name for all names below it; `*` for any.
        origins: origins of foreign pages that may send requests; `*` for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self.hosts = [each.lower() for each in hosts]
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(scope["method"], Headers(scope=scope))):
            await send_problem(problem, scope, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Problem | None:
        name = _host_name(headers.get("host", ""))
        if not (_is_private(name) or self._is_listed(name)):
            detail = "found a host name that this service does not know, expected one of ENFLOW_ALLOWED_HOSTS"
            return Problem("forbidden", f"{detail}, an address, or a name without a dot")
        if method not in SAFE_METHODS and not self._is_trusted(headers):
            return Problem("forbidden", "found a request of a foreign page, expected its origin in ENFLOW_CORS_ORIGINS")
        return None

    def _is_listed(self, name: str) -> bool:
        return any(each in ("*", name) or (each.startswith("*.") and name.endswith(each[1:])) for each in self.hosts)

    def _is_trusted(self, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if "*" in self.origins or origin in self.origins or site in OWN_SITE:
            return True
        if origin is None or site is not None:  # a program, or a browser that calls the page foreign
            return site is None
        place = origin.partition("://")[2].lower()
        # A proxy may replace Host; a page cannot set X-Forwarded-Host without asking.
        own = [headers.get(name, "").partition(",")[0].lower() for name in ("host", "x-forwarded-host")]
        return bool(place) and (place in own or ("*" not in self.hosts and self._is_listed(_host_name(place))))


def _host_name(host: str) -> str:
    """Return a host without its port, in lower case; empty where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host


def _is_private(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(tuple(f".{domain}" for domain in PRIVATE_DOMAINS))
    return True


class ApiKeys:
    """The known API keys, and the requests of each client in the last minute.

    Args:
        keys: the SHA-256 of each key by the name of its client; empty means that no key is needed.
        per_minute: POST requests that one client may send in a minute.
    """

    def __init__(self, keys: Mapping[str, str], per_minute: int) -> None:
        self._keys = dict(keys)
        self._rate = RateLimitItemPerMinute(per_minute)
        self._calls = MovingWindowRateLimiter(MemoryStorage())

    def admit(self, method: str, path: str, headers: Mapping[str, str], host: str) -> str:
        """Return the name of the client: that of its key, or its address where no keys are configured.

        GET requests need no key, except for /metrics and for jobs.

        Raises:
            Problem: unauthorized, busy-client.
        """
        if method not in ("POST", "DELETE") and not f"{path}/".startswith(GUARDED):
            return host
        client = self._client_of(headers) if self._keys else host
        if method == "POST" and not self._calls.hit(self._rate, client):
            wait = self._calls.get_window_stats(self._rate, client).reset_time - time.time()
            raise Problem(
                "busy-client", f"expected at most {self._rate.amount} requests a minute", headers=retry_after(wait)
            )
        return client

    def _client_of(self, headers: Mapping[str, str]) -> str:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(key.encode()).hexdigest()
        # Every hash is compared in constant time, so that the duration does not show which one was near.
        found = [name for name, known in self._keys.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise Problem(
                "unauthorized",
                "expected a known API key as `Authorization: Bearer KEY`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found[0]


class AdmissionMiddleware:
    """Refuse a request without a known key, above the rate of its client, or beyond the number of open requests.

    Args:
        app: the application inside.
        access: the API keys and the rates.
        max_open: number of POST requests whose body has arrived and that are not answered.
    """

    def __init__(self, app: ASGIApp, access: ApiKeys, max_open: int) -> None:
        self.app = app
        self.access = access
        self.max_open = max_open
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            scope["state"]["client"] = self._admit(scope)
        except Problem as problem:
            await send_problem(problem, scope, send)
            return
        current_client.set(scope["state"]["client"])
        if scope["method"] == "POST":
            await self._run_in_place(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _run_in_place(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; the request is counted once its body is there: a slow sender costs no one else."""
        counted = False

        async def receive_and_count() -> Message:
            nonlocal counted
            message = await receive()
            if not counted and message["type"] == "http.request" and not message.get("more_body", False):
                self._check_open()
                self.open, counted = self.open + 1, True
            return message

        try:
            await self.app(scope, receive_and_count, send)
        finally:
            self.open -= counted

    def _admit(self, scope: Scope) -> str:
        host = (scope.get("client") or ("local", 0))[0]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        client = self.access.admit(scope["method"], path, Headers(scope=scope), host)
        if scope["method"] == "POST":
            self._check_open()
        return client

    def _check_open(self) -> None:
        if self.open >= self.max_open:
            detail = f"found {self.open} open requests, expected fewer than {self.max_open}"
            raise Problem("unavailable", detail, headers=retry_after(5))
