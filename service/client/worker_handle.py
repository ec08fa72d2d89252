"""A worker as its client sees it: the process, the pipe to it, its last sign of life, and its circuit breaker."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
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

MAX_CAUSES = 20
"""Samples in a row that end the worker, without another answer between them, that open the breaker."""


@dataclass
class CircuitBreaker:
    """The crashes since the last answer; it keeps an engine whose crashes no sample explains from restarts for a time.

    Attributes:
        max_crashes: crashes in a row that open the breaker.
        pause_s: seconds that it stays open.
        crashes: crashes in a row that no sample explains.
        causes: samples in a row that ended the worker.
        error: the reason of the last crash.
        retry_at: monotonic seconds after which another worker may be tried.
    """

    max_crashes: int
    pause_s: float
    crashes: int = 0
    causes: int = 0
    error: str = ""
    retry_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """True while no worker may be started and no request is accepted."""
        return self.crashes >= self.max_crashes

    @property
    def reason(self) -> str:
        """A sentence for callers."""
        return f"the engine has crashed {self.crashes} times in a row: {self.error}"

    def record_answer(self) -> None:
        """Record an answer of the engine."""
        self.crashes = self.causes = 0

    def record_crash(self) -> None:
        """Record a crash that no sample explains."""
        self._set(self.crashes + 1)

    def record_cause(self) -> None:
        """Record a crash that one sample explains."""
        self.causes += 1
        self._set(self.max_crashes if self.causes >= MAX_CAUSES else 0)

    def allow_one(self) -> bool:
        """Return True if another worker may be tried; its crash opens the breaker again."""
        if not self.is_open or time.monotonic() < self.retry_at:
            return False
        self.crashes = self.max_crashes - 1
        return True

    def _set(self, crashes: int) -> None:
        self.crashes = crashes
        self.retry_at = time.monotonic() + self.pause_s


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
        target=serve, args=(connection, factory), name="enflow-engine", daemon=True
    )
    process.start()
    connection.close()
    return cast("WorkerRunner", process)
