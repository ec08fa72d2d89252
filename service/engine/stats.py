"""The counters of an engine since its start."""

import math
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from enflow.service.protocol.events import Encoded, Failed, Sampled, Scored
from enflow.service.protocol.status import Stats

AVERAGING_S = 60.0
"""The time constant of the average speed, in seconds of stepping."""


@dataclass
class StatsCounter:
    """Counters that only grow, and the average speed."""

    steps: int = 0
    row_steps: int = 0
    nfe: int = 0
    step_seconds: float = 0.0
    memory_errors: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    _recent: float = 0.0
    _recent_expected: float = 0.0

    @contextmanager
    def measure(self, rows: int, expected: float) -> Iterator[None]:
        """Count the enclosed code as one step; without rows it counts as none.

        Args:
            rows: the rows of the batch.
            expected: the seconds of the step by the cost table.
        """
        start = time.perf_counter()
        yield
        if rows:
            self.record_step(rows, time.perf_counter() - start, expected)

    def record_step(self, rows: int, seconds: float, expected: float) -> None:
        """Count a step of a batch, with its measured seconds and those expected by the cost table."""
        self.steps += 1
        self.row_steps += rows
        self.step_seconds += seconds
        decay = math.exp(-seconds / AVERAGING_S)
        self._recent = decay * self._recent + seconds
        self._recent_expected = decay * self._recent_expected + expected

    @property
    def relative_speed(self) -> float:
        """Expected over measured seconds of the recent steps: above 1 the device is faster than the cost table."""
        return self._recent_expected / self._recent if self._recent > 1.0 else 1.0

    def record_answer(self, event: Sampled | Scored | Encoded | Failed, nfe: int) -> None:
        """Count the answer to a sample."""
        self.nfe += nfe
        if isinstance(event, Failed):
            self.failed[str(event.reason)] += 1
        else:
            self.finished[type(event).__name__.lower()] += 1

    def stats(
        self, *, waiting: int, running: int, occupied: int, slots: int, requests: int, device: torch.device
    ) -> Stats:
        """Return the counters together with the current state."""
        return Stats(
            waiting=waiting,
            running=running,
            occupied=occupied,
            slots=slots,
            requests=requests,
            memory_bytes=_memory(device),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            steps=self.steps,
            row_steps=self.row_steps,
            nfe=self.nfe,
            step_seconds=self.step_seconds,
            memory_errors=self.memory_errors,
            finished=dict(self.finished),
            failed=dict(self.failed),
        )


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # a system without /proc only tells the peak
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident * resource.getpagesize()
