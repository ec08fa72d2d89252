"""Crashes of a worker process: crash isolation finds the sample that causes them, so that no other sample fails.

A crash is attributed to the samples that were in the step. They are divided into two groups, and samples of different
groups share no step in the next worker. The next crash divides one group again, until one sample is alone. A sample
that ends several workers alone is the cause.

A circuit breaker keeps an engine whose crashes no sample explains from restarts for some time.
"""

import itertools
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from enflow.service.protocol.status import SampleKey

MAX_CRASHES_ALONE = 3
"""Crashes of a sample that was alone in the step, before it fails. A worker can also be killed from outside, so one
crash proves nothing."""

MAX_CAUSES = 20
"""Samples in a row that end the worker, without another answer between them, that open the breaker."""


class CrashIsolation:
    """The suspects and their groups."""

    def __init__(self) -> None:
        self._groups: dict[SampleKey, int] = {}
        self._crashes_alone: Counter[SampleKey] = Counter()
        self._numbers = itertools.count(1)

    @property
    def groups(self) -> Mapping[SampleKey, int]:
        """The group of every suspect; samples that are not suspects have none."""
        return self._groups

    def crash(self, suspects: Collection[SampleKey]) -> SampleKey | None:
        """Record a crash with these samples in the step; return the sample that caused it, once it is known."""
        if not suspects:
            return None
        if len(suspects) == 1:
            (suspect,) = suspects
            self._groups.setdefault(suspect, next(self._numbers))
            self._crashes_alone[suspect] += 1
            return suspect if self._crashes_alone[suspect] >= MAX_CRASHES_ALONE else None
        ordered = sorted(suspects)
        for half in (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]):
            self._groups |= dict.fromkeys(half, next(self._numbers))
        return None

    def discard(self, sample: SampleKey) -> None:
        """Remove a sample that has its answer."""
        self._groups.pop(sample, None)
        self._crashes_alone.pop(sample, None)


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
