"""What a handler knows of the request it answers: the caller, the cost so far, the stream of events."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enflow.service.problems import Problem
from enflow.service.protocol.events import Done, Failed, Reason

Emit = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Tells the caller something as it happens: the name of the event and its fields."""


async def silent(_name: str, _fields: dict[str, Any]) -> None:
    """Tell nobody: the answer comes in one piece, and the engine need not report progress."""


@dataclass(frozen=True)
class Caller:
    """Who asks, by which request; when it came, and when its answer must be complete (seconds since the epoch)."""

    name: str
    request_id: str
    arrived: float
    deadline: float

    @property
    def last_step(self) -> float:
        """When the engine must stop, so that what is finished by then can still be told."""
        return self.deadline - min(0.5, 0.1 * (self.deadline - self.arrived))


@dataclass
class Usage:
    """What an answer cost; grows while it is computed."""

    queue_ms: float = 0.0
    integrate_ms: float = 0.0
    bonds_ms: float = 0.0
    nfe: int = 0

    def add(self, done: Done) -> None:
        """Add a work."""
        self.queue_ms = max(self.queue_ms, done.queue_ms)
        self.integrate_ms += done.integrate_ms
        self.nfe += done.nfe

    def document(self) -> dict[str, float]:
        """As the API shows it."""
        return {
            "queue_ms": round(self.queue_ms, 3),
            "integrate_ms": round(self.integrate_ms, 3),
            "bonds_ms": round(self.bonds_ms, 3),
            "nfe": self.nfe,
        }


def work_id() -> str:
    """A new name for a work."""
    return secrets.token_hex(8)


def drawn_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbelow(2**31)


def refuse_nothing(found: Sequence[object], failed: Sequence[Mapping[str, Any]]) -> None:
    """Raise where the deadline, or the engine, left nothing to answer with.

    Raises:
        Problem: deadline, unavailable.
    """
    if not found and failed:
        name = problem_name(Reason(failed[0]["reason"])) if failed[0]["reason"] in set(Reason) else "invalid"
        if name != "invalid":
            raise Problem(name, f"nothing was finished; the first of {len(failed)} molecules: {failed[0]['reason']}")


def problem_name(reason: Reason) -> str:
    """The kind of problem behind a molecule that failed."""
    if reason == Reason.DEADLINE:
        return "deadline"
    return "unavailable" if reason in (Reason.ENGINE, Reason.CANCELLED) else "invalid"


def failure(failed: Failed) -> str:
    """Return the reason why the engine gave up a molecule, with the detail if there is one."""
    return f"{failed.reason}: {failed.detail}" if failed.detail else str(failed.reason)
