"""Admission of a request: the API key, the rate of its client, and the number of open requests."""

import hashlib
import hmac
import time
from collections.abc import Mapping

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
