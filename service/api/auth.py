"""API keys, stored as hashes in a file, and the rate of requests of each client."""

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from pathlib import Path

from fastapi.security import APIKeyHeader, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from enflow.model.errors import ConfigError
from enflow.service.problems import Problem, retry_after

BEARER = HTTPBearer(auto_error=False, description="An API key as `Authorization: Bearer KEY`")
API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key as `X-API-Key: KEY`")
"""Security schemes for the OpenAPI description; `AdmissionMiddleware` checks the keys before any route is chosen."""

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


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

        GET requests need no key, except for /metrics.

        Raises:
            Problem: unauthorized, busy-client.
        """
        if method != "POST" and path != "/metrics":
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


def read_keys(file: Path | None) -> dict[str, str]:
    """Read a file of keys: lines of `name:sha256`, empty lines, and comments that begin with #.

    Raises:
        ConfigError: the file cannot be read, holds no key, or has a line of another form.
    """
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"ENFLOW_API_KEYS_FILE: {file} cannot be read: {type(error).__name__}") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            place = f"ENFLOW_API_KEYS_FILE: {file}, line {number}"
            raise ConfigError(f"{place}: expected name:sha256-of-the-key in lower-case hexadecimal")
        keys[found[1]] = found[2]
    if not keys:
        raise ConfigError(f"ENFLOW_API_KEYS_FILE: {file}: found no key, expected lines of name:sha256-of-the-key")
    return keys
