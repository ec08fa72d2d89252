"""What the engine has done since its start."""

import resource
from collections import Counter
from dataclasses import dataclass, field

import torch

from service.work import Encoded, Failed, Sampled, Scored, Stats


@dataclass
class Tally:
    """Counters that only grow."""

    steps: int = 0
    row_steps: int = 0
    nfe: int = 0
    step_seconds: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def step(self, rows: int, seconds: float) -> None:
        """A batch of rows stepped."""
        self.steps += 1
        self.row_steps += rows
        self.step_seconds += seconds

    def answer(self, event: Sampled | Scored | Encoded | Failed, nfe: int) -> None:
        """A molecule was told about."""
        self.nfe += nfe
        if isinstance(event, Failed):
            self.failed[str(event.reason)] += 1
        else:
            self.finished[type(event).__name__.lower()] += 1

    def stats(self, *, waiting: int, running: int, works: int, device: torch.device) -> Stats:
        """The counters beside what is going on now."""
        return Stats(
            waiting=waiting,
            running=running,
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
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux
