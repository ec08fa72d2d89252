"""The facts of one request that every handler needs: caller, seed, usage, stream of events; and its cancellation."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from enflow.service.problems import EngineFailure, Problem, retry_after
from enflow.service.protocol.events import Done, Reason
from enflow.service.protocol.requests import CallerFields
from enflow.service.schemas.responses import FailedOut, UsageOut
from enflow.service.schemas.stream_events import StreamEvent

T = TypeVar("T")

Emit = Callable[[StreamEvent], Awaitable[None]]
"""Sends an event to the caller."""


async def discard(_event: StreamEvent) -> None:
    """Send nothing: the answer is one document, and the engine need not report progress."""


@dataclass(frozen=True)
class Caller:
    """The client of a request.

    Attributes:
        name: the client whose share of the queue is used.
        request_id: the identifier in logs and problems.
        arrived: the time of arrival, in seconds since the epoch.
        deadline: the time by which the answer must be complete, in seconds since the epoch.
    """

    name: str
    request_id: str
    arrived: float
    deadline: float

    @property
    def engine_deadline(self) -> float:
        """The time at which the engine stops, early enough to return what is finished."""
        return self.deadline - min(0.5, 0.1 * (self.deadline - self.arrived))


@dataclass
class Usage:
    """The cost of an answer; it grows while the answer is computed.

    Attributes:
        queue_ms: the longest time that an engine request waited.
        integrate_ms: time on the device, over all engine requests.
        bonds_ms: time of the bond inference, over all molecules.
        nfe: evaluations of the velocity, over all molecules.
    """

    queue_ms: float = 0.0
    integrate_ms: float = 0.0
    bonds_ms: float = 0.0
    nfe: int = 0

    def add(self, done: Done) -> None:
        """Add the cost of an engine request."""
        self.queue_ms = max(self.queue_ms, done.queue_ms)
        self.integrate_ms += done.integrate_ms
        self.nfe += done.nfe

    def document(self) -> UsageOut:
        """Return the cost as the response shows it."""
        return UsageOut(
            queue_ms=round(self.queue_ms, 3),
            integrate_ms=round(self.integrate_ms, 3),
            bonds_ms=round(self.bonds_ms, 3),
            nfe=self.nfe,
        )


@dataclass(frozen=True)
class HandlerContext:
    """The caller of a request, its seed, its events and its cost so far."""

    seed: int
    caller: Caller
    emit: Emit = discard
    usage: Usage = field(default_factory=Usage)

    @property
    def streams(self) -> bool:
        """True where the caller receives events."""
        return self.emit is not discard

    def engine_fields(self) -> CallerFields:
        """Return the fields of a new request to an engine that follow from the caller, with a new id."""
        return {"id": secrets.token_hex(8), "client": self.caller.name, "deadline": self.caller.engine_deadline}


def random_seed() -> int:
    """Return a seed for a request that names none."""
    return secrets.randbelow(2**31)


def require_results(found: Sequence[object], failed: Sequence[FailedOut]) -> None:
    """Refuse an answer without molecules where the deadline or the engine is the reason.

    Raises:
        Problem: deadline, unavailable.
    """
    if found or not failed or failed[0].reason not in set(Reason):
        return
    detail = f"found no finished molecule; the first of {len(failed)} failed: {failed[0].reason}"
    problem = failure_problem(Reason(failed[0].reason), detail)
    if problem.name != "invalid":
        raise problem


def failure_problem(reason: Reason, detail: str) -> Problem:
    """Return the problem behind a molecule that failed."""
    if reason in (Reason.ENGINE, Reason.CANCELLED):
        return EngineFailure(detail)
    return Problem("deadline" if reason == Reason.DEADLINE else "invalid", detail)


async def run_cancellable(
    handler: Awaitable[T], disconnect: Awaitable[None], stopping: asyncio.Event, deadline: float
) -> T:
    """Return the result of a handler, or cancel it.

    Args:
        handler: the computation.
        disconnect: ends when the caller has left.
        stopping: is set when the service stops.
        deadline: seconds since the epoch.

    Raises:
        Problem: deadline, unavailable.
        CallerGone: the caller has left.
    """
    main, left, stopped = (
        asyncio.ensure_future(handler),
        asyncio.ensure_future(disconnect),
        asyncio.ensure_future(stopping.wait()),
    )
    try:
        time_left = max(0.0, deadline - time.time())
        await asyncio.wait((main, left, stopped), timeout=time_left, return_when=asyncio.FIRST_COMPLETED)
        if main.done():
            return main.result()
        if left.done():
            raise CallerGone
        if stopped.done():
            raise Problem("unavailable", "the service stopped before the answer was complete", headers=retry_after(10))
        raise Problem("deadline", "the deadline passed before the answer was complete")
    finally:
        for task in (main, left, stopped):
            task.cancel()
        await asyncio.gather(main, left, stopped, return_exceptions=True)


@contextmanager
def first_error() -> Iterator[None]:
    """Raise the first error of a group of tasks instead of the group."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


class CallerGone(Exception):  # noqa: N818 - an event, not a failure
    """The caller closed its connection."""
