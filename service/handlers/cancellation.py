"""Cancel a handler when its caller leaves, its deadline passes or the service stops."""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from enflow.service.problems import Problem, retry_after

T = TypeVar("T")


async def unless_stopped(work: Awaitable[T], gone: Awaitable[None], stopping: asyncio.Event, deadline: float) -> T:
    """The result of a coroutine; it is cancelled where its caller goes away, its time is up or the service stops.

    Raises:
        Problem: deadline, unavailable.
        CallerGone: nobody is there to hear it.
    """
    main, left, stopped = (
        asyncio.ensure_future(work),
        asyncio.ensure_future(gone),
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
            raise Problem("unavailable", "the service stopped before the work was done", headers=retry_after(10))
        raise Problem("deadline", "the deadline passed before the answer was complete")
    finally:
        for task in (main, left, stopped):
            task.cancel()
        await asyncio.gather(main, left, stopped, return_exceptions=True)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Of tasks that ran side by side, raise what went wrong first, not the group of it."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


class CallerGone(Exception):  # noqa: N818 - an event, not a failure
    """The client closed its connection."""
