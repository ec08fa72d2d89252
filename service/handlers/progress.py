"""What a waiting caller is told between two molecules."""

import time
from typing import Any

from enflow.service.handlers.context import Emit
from enflow.service.handlers.served_model import ServedModel
from enflow.service.protocol.events import Progress

PAUSE_S = 0.2
"""Between two notes of progress: an eye wants no more, and a long stream stays small."""


class ProgressReporter:
    """Which molecules are under way, and how far; told at most five times a second."""

    def __init__(self, desk: ServedModel, emit: Emit) -> None:
        self._desk = desk
        self._emit = emit
        self._running: dict[int, tuple[float, int]] = {}
        self._told = 0.0

    async def under_way(self, event: Progress, **counts: int) -> None:
        """Note that a molecule moved; tell it, and its frame, where it is time to."""
        self._running[event.index] = (event.t, event.nfe)
        if event.frame is not None:
            await self._emit("frame", {"index": event.index, "frame": self._desk.frame(event.frame)})
        if time.monotonic() - self._told >= PAUSE_S:
            self._told = time.monotonic()
            await self._emit("progress", self._document(counts))

    def finished(self, index: int) -> None:
        """Note that a molecule left the device."""
        self._running.pop(index, None)

    def _document(self, counts: dict[str, int]) -> dict[str, Any]:
        running = [{"index": index, "t": round(t, 4), "nfe": nfe} for index, (t, nfe) in self._running.items()]
        return {**counts, **self._desk.queue(), "running": running}
