"""A scheduler for tests, and rows for it."""

import math
from collections import Counter

from enflow.service.engine.queues import Row
from enflow.service.engine.scheduler import Scheduler

LANES = {"sample": 2.0, "likelihood": 1.0}


def rows(
    request: str, n: int, group: str = "small", cost: float = 1.0, lane: str = "sample", first: int = 0
) -> list[Row]:
    return [Row(request, first + i, lane, group, cost) for i in range(n)]


def scheduler(room: int = 4, slots: int = 64) -> Scheduler:
    return Scheduler(LANES, lambda _: room, slots)


def add(
    queue: Scheduler,
    request: str,
    new: list[Row],
    *,
    small: bool = False,
    deadline: float | None = None,
) -> None:
    """Add rows of much work, so that the order is that of arrival."""
    queue.add(request, new, deadline, work=math.inf, small=small)


def served(queue: Scheduler, steps: int, by: str = "request_id") -> Counter[str]:
    return Counter(getattr(row, by) for _ in range(steps) for row in queue.schedule())


def abort(queue: Scheduler, request: str) -> list[Row]:
    """Finish all rows of a request."""
    gone = [row for row in queue.rows() if row.request_id == request]
    for row in gone:
        queue.finish(row)
    return gone
