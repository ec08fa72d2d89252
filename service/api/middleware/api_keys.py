"""The API keys of the clients, and the rate of each."""

import hashlib
import hmac
import time
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

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
