"""The application in Ray with a look at its engines, and at the processes that a test has started."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from enflow.service.client.replica_pool import ReplicaStatus

MARK = "TEST_OF_ENFLOW_WITH_RAY"
"""In the environment of every process that these tests start."""


def until(true: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    late = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < late, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def marked(mark: str) -> list[str]:
    """Programs that have this mark in their environment, but for this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (place / "environ").read_bytes(), (place / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment and command and int(place.name) != os.getpid():
            found.append(command.replace(b"\0", b" ").decode(errors="replace")[:100])
    return found


@dataclass
class Cluster:
    """The application behind Serve's proxy, and a look at its engines."""

    http: httpx.Client
    pool: Any

    def statuses(self) -> dict[str, ReplicaStatus]:
        return {status.replica: status for status in until(self._query, "the engines say something")}

    def count(self, engines: int) -> dict[str, ReplicaStatus]:
        """Wait until there are so many engines, as there are in the end with this load; return their statuses."""
        found: dict[str, ReplicaStatus] = until(
            lambda: len(now := self.statuses()) == engines and now, f"{engines} engines"
        )
        return found

    def finished(self) -> list[int]:
        """Return the number of molecules that each engine has finished."""
        return [status.stats.finished.get("sampled", 0) for status in self.statuses().values()]

    def sees(self, engines: int) -> bool:
        """The application looks for itself, once a second, and is ready with one."""
        device = self.http.get("/health/ready").json().get("device", "")
        return bool(device.startswith(f"{engines} x "))

    def steps(self, replica: str) -> int:
        """Return the steps of an engine so far; 0 if it does not answer now."""
        status = self.statuses().get(replica)
        return status.stats.steps if status else 0

    def busy(self) -> ReplicaStatus | None:
        """Return an engine that has requests, if there is one."""
        return next((status for status in self.statuses().values() if status.stats.requests), None)

    def _query(self) -> Any:
        with contextlib.suppress(TimeoutError):  # one that starts, or has just died
            return asyncio.run(self.pool.statuses())
