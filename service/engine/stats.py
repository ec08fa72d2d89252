"""What the engine has done since its start."""

import math
import resource
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from enflow.service.protocol.events import Encoded, Failed, Sampled, Scored
from enflow.service.protocol.status import Stats

MEMORY = 60.0
"""Seconds of stepping over which the pace is averaged."""


@dataclass
class StatsCounter:
    """Counters that only grow."""

    steps: int = 0
    row_steps: int = 0
    nfe: int = 0
    step_seconds: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    _recent: float = 0.0
    _recent_expected: float = 0.0

    def step(self, rows: int, seconds: float, expected: float) -> None:
        """A batch of rows stepped; by the cost table it should have taken the seconds expected."""
        self.steps += 1
        self.row_steps += rows
        self.step_seconds += seconds
        memory = math.exp(-seconds / MEMORY)
        self._recent = memory * self._recent + seconds
        self._recent_expected = memory * self._recent_expected + expected

    @property
    def pace(self) -> float:
        """How fast steps have been of late, measured by the cost table."""
        return self._recent_expected / self._recent if self._recent > 1.0 else 1.0

    def answer(self, event: Sampled | Scored | Encoded | Failed, nfe: int) -> None:
        """A molecule was told about."""
        self.nfe += nfe
        if isinstance(event, Failed):
            self.failed[str(event.reason)] += 1
        else:
            self.finished[type(event).__name__.lower()] += 1

    def stats(self, *, waiting: int, running: int, slots: int, works: int, device: torch.device) -> Stats:
        """The counters beside what is going on now."""
        return Stats(
            waiting=waiting,
            running=running,
            slots=slots,
            works=works,
            memory_bytes=_memory(device),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            steps=self.steps,
            row_steps=self.row_steps,
            nfe=self.nfe,
            step_seconds=self.step_seconds,
            finished=dict(self.finished),
            failed=dict(self.failed),
        )


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no /proc: the peak must do
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident * resource.getpagesize()
