"""A worker as its client sees it: what carries it, the pipe to it, its pulse."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, cast

from enflow.service.engine.process import WorkerOrder, WorkerReport, serve

if TYPE_CHECKING:  # a client's process need not load torch
    from enflow.service.engine.core import Engine


class WorkerRunner(Protocol):
    """What runs a worker: a thread or a process."""

    def kill(self) -> None:
        """End it now, as far as that can be done."""

    def join(self, timeout: float) -> None:
        """Wait for its end."""


class WorkerHandle:
    """A worker under way. Orders leave by a thread, since a pipe may be full; reports come by another.

    Args:
        carry: starts the worker on its end of the pipe.
        hear: is called with every report, in the reading thread.
        lost: is called once, after the last report.
    """

    def __init__(
        self,
        carry: Callable[[Connection], WorkerRunner],
        hear: "Callable[[WorkerHandle, WorkerReport], object]",
        lost: "Callable[[WorkerHandle], object]",
    ) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self.carrier = carry(theirs)
        self._orders: SimpleQueue[WorkerOrder | None] = SimpleQueue()
        self._hear, self._lost = hear, lost
        self.pulse = time.monotonic()
        self.checked = self.pulse
        self.ready = False
        self.error = "the worker died"
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"enflow-{target.__name__}", daemon=True).start()

    def order(self, order: WorkerOrder) -> None:
        """Send an order."""
        self._orders.put(order)

    def dismiss(self) -> None:
        """Send no more orders than those already given."""
        self._orders.put(None)

    def _read(self) -> None:
        # What a dead worker has sent is read to the end before it counts as dead; a torn last message never arrives.
        with suppress(RuntimeError):  # the loop that listens may be closed by now
            with suppress(EOFError, OSError):
                while True:
                    self._hear(self, self._connection.recv())
            self._lost(self)
        self.dismiss()
        self._connection.close()

    def _write(self) -> None:
        with suppress(OSError):
            while (order := self._orders.get()) is not None:
                self._connection.send(order)


class ThreadRunner:
    """A worker in a thread of this process. A hung one cannot be killed, only cut off."""

    def __init__(self, connection: Connection, factory: "Callable[[], Engine]") -> None:
        self._connection = connection
        self._thread = threading.Thread(target=self._run, args=(factory,), name="enflow-engine", daemon=True)
        self._thread.start()

    def _run(self, factory: "Callable[[], Engine]") -> None:
        with suppress(Exception):  # told to the client as Crashed
            serve(self._connection, factory)

    def kill(self) -> None:
        """Cut it off: its next word breaks the pipe."""
        with suppress(OSError):
            self._connection.close()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)


def process_runner(context: BaseContext, connection: Connection, factory: "Callable[[], Engine]") -> WorkerRunner:
    """A worker in a process of its own."""
    process = context.Process(  # type: ignore[attr-defined]
        target=_serve, args=(connection, factory), name="enflow-engine", daemon=True
    )
    process.start()
    connection.close()
    return cast("WorkerRunner", process)


def _serve(connection: Connection, factory: "Callable[[], Engine]") -> None:
    # Ctrl-C reaches the whole group; the service stops this process when it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(connection, factory)
