"""Crash isolation: it finds the sample that ends the worker process, so that no other sample fails.

A crash is attributed to the samples that were in the step. They are divided into two groups, and samples of different
groups share no step in the next worker. The next crash divides one group again, until one sample is alone. A sample
that ends several workers alone is the cause.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping

from enflow.service.protocol.status import SampleKey

MAX_CRASHES_ALONE = 3
"""Crashes of a sample that was alone in the step, before it fails. A worker can also be killed from outside, so one
crash proves nothing."""


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
