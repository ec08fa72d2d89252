"""The circuit breaker: after repeated crashes it keeps an engine from restarts for some time."""

import time
from dataclasses import dataclass

MAX_CAUSES = 20
"""Samples in a row that end the worker, without another answer between them, that open the breaker."""


@dataclass
class CircuitBreaker:
    """The crashes since the last answer.

    Attributes:
        max_crashes: crashes in a row that open the breaker.
        pause_s: seconds that it stays open.
        crashes: crashes in a row that no sample explains.
        causes: samples in a row that ended the worker.
        error: the reason of the last crash.
        retry_at: monotonic seconds after which another worker may be tried.
    """

    max_crashes: int
    pause_s: float
    crashes: int = 0
    causes: int = 0
    error: str = ""
    retry_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """True while no worker may be started and no request is accepted."""
        return self.crashes >= self.max_crashes

    @property
    def reason(self) -> str:
        """A sentence for callers."""
        return f"the engine has crashed {self.crashes} times in a row: {self.error}"

    def record_answer(self) -> None:
        """Record an answer of the engine."""
        self.crashes = self.causes = 0

    def record_crash(self) -> None:
        """Record a crash that no sample explains."""
        self._set(self.crashes + 1)

    def record_cause(self) -> None:
        """Record a crash that one sample explains."""
        self.causes += 1
        self._set(self.max_crashes if self.causes >= MAX_CAUSES else 0)

    def allow_one(self) -> bool:
        """Return True if another worker may be tried; its crash opens the breaker again."""
        if not self.is_open or time.monotonic() < self.retry_at:
            return False
        self.crashes = self.max_crashes - 1
        return True

    def _set(self, crashes: int) -> None:
        self.crashes = crashes
        self.retry_at = time.monotonic() + self.pause_s
