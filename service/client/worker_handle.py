"""A worker as its client sees it: the process, the pipe to it, and its last sign of life."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, cast

from enflow.service.engine.process import WorkerCommand, WorkerReport, serve
from enflow.service.protocol.status import RowKey

if TYPE_CHECKING:  # the client need not load torch
    from enflow.service.engine.core import Engine


EXIT_S = 1.0
"""Seconds that a worker may take to end after it has closed its pipe."""


KILLED_S = 60.0
"""Seconds that a killed worker may take to end; it stays a zombie until it is joined."""


class WorkerRunner(Protocol):
    """The process of a worker; in tests also a thread."""

    def kill(self) -> None:
        """End the worker at once."""

    def join(self, timeout: float) -> None:
        """Wait until the worker has ended, at most `timeout` seconds."""

    @property
    def exitcode(self) -> int | None:
        """The exit code; -n after signal n; None = not known."""


class WorkerHandle:
    """A running worker. One thread writes commands, since a pipe may be full; another thread reads reports.

    Args:
        start: starts the worker with its end of the pipe.
        on_report: called with every report, in the reading thread.
        on_exit: called once, after the last report.

    Attributes:
        last_report: monotonic seconds of the last report, or of the start.
        last_check: monotonic seconds of the last check of the known answer.
        ready: the engine is loaded.
        rows: the rows on which the device works.
        error: why the worker ended.
        trace: the traceback of the exception that ended it.
    """

    def __init__(
        self,
        start: Callable[[Connection], WorkerRunner],
        on_report: "Callable[[WorkerHandle, WorkerReport], object]",
        on_exit: "Callable[[WorkerHandle], object]",
    ) -> None:
        self._connection, worker_end = multiprocessing.Pipe()
        self.runner = start(worker_end)
        self._commands: SimpleQueue[WorkerCommand | None] = SimpleQueue()
        self._on_report, self._on_exit = on_report, on_exit
        self.last_report = self.last_check = time.monotonic()
        self.ready = False
        self.rows: Sequence[RowKey] = ()
        self.error = self.trace = ""
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"enflow-{target.__name__}", daemon=True).start()

    def send(self, command: WorkerCommand) -> None:
        """Send a command; do nothing after `close`."""
        self._commands.put(command)

    def close(self) -> None:
        """Send the commands given so far and no more."""
        self._commands.put(None)

    def _read(self) -> None:
        # All reports of a worker are read before its end is reported; an incomplete last message is dropped.
        with suppress(RuntimeError):  # the event loop of the client may be closed
            with suppress(EOFError, OSError):
                while True:
                    self._on_report(self, self._connection.recv())
            self.runner.join(EXIT_S)
            self.error = self.error or _exit_reason(self.runner.exitcode)
            self._on_exit(self)
            self.runner.join(KILLED_S)
        self.close()
        self._connection.close()

    def _write(self) -> None:
        with suppress(OSError):
            while (command := self._commands.get()) is not None:
                self._connection.send(command)


def _exit_reason(code: int | None) -> str:
    if code is None:
        return "the worker ended"
    if code < 0:
        return f"the worker was ended by {signal.Signals(-code).name}"
    return f"the worker ended with exit code {code}"


def start_process(context: BaseContext, connection: Connection, factory: "Callable[[], Engine]") -> WorkerRunner:
    """Start a worker in a process of its own."""
    process = context.Process(  # type: ignore[attr-defined]
        target=_serve, args=(connection, factory), name="enflow-engine", daemon=True
    )
    process.start()
    connection.close()
    return cast("WorkerRunner", process)


def _serve(connection: Connection, factory: "Callable[[], Engine]") -> None:
    # Ctrl-C reaches the whole process group; the service stops this process after it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(connection, factory)
