"""A semaphore that is shared between clients in turn."""

import asyncio
from collections import deque


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
