"""Cancellation of a handler when its caller leaves, its deadline passes or the service stops."""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from enflow.service.problems import Problem, retry_after

T = TypeVar("T")


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
