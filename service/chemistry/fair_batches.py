"""Workers that clients share in turn: a semaphore, and calls for single items that are run in batches."""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 16
"""Items of a batch. A call of a process costs the service about 0.4 ms, a molecule in it 0.05 ms (measured), and the
molecules of other clients wait for a batch, 10 ms."""


class FairSemaphore:
    """A semaphore whose free places go to the waiting clients in turn, and within a client in the order of arrival.

    Args:
        places: the number of places.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def acquire(self, client: str) -> None:
        """Take a place, or wait for one."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place was given in the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give a place to the next client, or keep it free."""
        while self._waiting:
            client = next(iter(self._waiting))
            turns = self._waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # behind the other clients
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


@dataclass(eq=False)
class WaitingItem(Generic[T, R]):
    """An item, and the result that its caller awaits."""

    item: T
    result: "asyncio.Future[R]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[T, R]):
    """Runs the items of a client together that wait while all workers are busy, or that come at the same moment.

    An item waits for no other item: a free worker takes what there is, and several free workers share it.

    Args:
        places: the free workers.
        workers: the number of workers.
        run: returns the results of a batch, in a place that is taken and that it releases. If it fails for a batch,
            it is called again for each item alone.
    """

    def __init__(
        self, places: FairSemaphore, workers: int, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]]
    ) -> None:
        self._places, self._workers, self._run = places, workers, run
        self._waiting: dict[str, list[WaitingItem[T, R]]] = {}
        self._takers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, client: str, item: T) -> R:
        """Return the result of an item.

        Args:
            client: the client whose turn among all clients the item takes.
            item: the item.
        """
        waiting = WaitingItem[T, R](item)
        self._waiting.setdefault(client, []).append(waiting)
        self._start_taker(client)
        return await waiting.result

    def _start_taker(self, client: str) -> None:
        """Let one more worker take items of a client if that helps."""
        if self._takers[client] < min(len(self._waiting[client]), self._workers):
            self._takers[client] += 1
            self._start(self._take(client))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, client: str) -> None:
        await self._places.acquire(client)
        waiting = [each for each in self._waiting.pop(client, ()) if not each.result.done()]
        size = min(MAX_BATCH, math.ceil(len(waiting) / self._takers[client]))
        self._takers[client] -= 1
        batch, rest = waiting[:size], waiting[size:]
        if rest:
            self._waiting[client] = rest
            self._start_taker(client)
        if not self._takers[client]:
            del self._takers[client]
        await self._run_batch(client, batch)

    async def _run_batch(self, client: str, batch: Sequence[WaitingItem[T, R]]) -> None:
        """Run a batch in a place that is taken, and stop when all its callers have left."""
        if all(each.result.done() for each in batch):
            self._places.release()
            return
        running = asyncio.ensure_future(self._run([each.item for each in batch]))

        def stop(_: "asyncio.Future[R]") -> None:
            if all(each.result.done() for each in batch):
                running.cancel()

        for each in batch:
            each.result.add_done_callback(stop)
        await asyncio.wait([running])
        if not running.cancelled():
            self._settle(client, batch, running)

    def _settle(self, client: str, batch: Sequence[WaitingItem[T, R]], finished: "asyncio.Future[Sequence[R]]") -> None:
        """Give the results of a batch to those callers who still wait, or run the items of a failed batch alone."""
        error = finished.exception()
        waiting = [(i, each) for i, each in enumerate(batch) if not each.result.done()]
        for i, each in waiting:
            if error is None:
                each.result.set_result(finished.result()[i])
            elif len(batch) > 1:
                self._start(self._run_alone(client, each))
            else:
                each.result.set_exception(error)

    async def _run_alone(self, client: str, item: WaitingItem[T, R]) -> None:
        await self._places.acquire(client)
        await self._run_batch(client, [item])
