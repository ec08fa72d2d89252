"""The worker process: an engine behind a pipe."""

import ctypes
import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from enflow.service.problems import public_reason
from enflow.service.protocol.events import Event
from enflow.service.protocol.status import RowKey, SavedRow, Snapshot, Stats

if TYPE_CHECKING:  # the client imports this module and need not load torch
    from enflow.service.engine.core import Engine

HEARTBEAT_S, SNAPSHOT_S, CHECK_S = 0.2, 2.0, 15.0
"""Seconds between heartbeats, between snapshots of the running rows, and between checks of the known answer."""


SNAPSHOT_SHARE = 0.05
"""The largest share of the time that snapshots take: those of many rows become less frequent."""

IDLE_S = 1.0
"""Seconds without work after which free memory is returned to the system: an engine that works needs it again."""


@dataclass(frozen=True)
class Abort:
    """Abort a request."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """End the worker."""


@dataclass(frozen=True)
class Ready:
    """The engine is loaded and has computed the known answer; `rate` in pairs of atoms times evaluations per second."""

    rate: float


@dataclass(frozen=True)
class Events:
    """Events of the engine."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life, with the seconds since the last check of the known answer and the present rate."""

    stats: Stats
    check_age: float
    rate: float


@dataclass(frozen=True)
class RowsSaved:
    """The states of the running rows."""

    rows: Mapping[RowKey, SavedRow]


@dataclass(frozen=True)
class Crashed:
    """The engine raised an exception; the worker ends."""

    error: str
    trace: str


@dataclass(frozen=True)
class StepBegins:
    """The rows on which the device works from now on."""

    rows: tuple[RowKey, ...]


@dataclass(frozen=True)
class StepFailed:
    """The rows and the traceback of a step that raised an exception."""

    rows: tuple[RowKey, ...]
    trace: str


@dataclass(frozen=True)
class Notice:
    """A fact for the log."""

    text: str


WorkerCommand = Snapshot | Abort | Stop
WorkerReport = Ready | Events | Heartbeat | RowsSaved | Crashed | StepBegins | StepFailed | Notice


def serve(connection: Connection, factory: "Callable[[], Engine]") -> None:
    """Run an engine by the commands from a pipe, until `Stop` or until the pipe is closed."""
    try:
        _WorkerLoop(connection, factory()).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the client has ended, and nobody waits for an answer
    except Exception as error:
        connection.send(Crashed(public_reason(error), "".join(traceback.format_exception(error))))
        raise
    finally:
        connection.close()


def trim_heap() -> None:
    """Return the free memory of the heap to the system where the C library can do that (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _WorkerLoop:
    def __init__(self, connection: Connection, engine: "Engine") -> None:
        self._connection, self._engine = connection, engine
        self._last_check = self._last_heartbeat = self._last_snapshot = time.monotonic()
        self._rows: tuple[RowKey, ...] = ()
        self._last_work = time.monotonic()
        self._trimmed = False
        self._snapshot_s = SNAPSHOT_S
        engine.observer = self

    def run(self) -> None:
        self._check()
        gc.collect()
        gc.freeze()  # the modules and the weights stay, and no later collection need look at them
        self._connection.send(Ready(self._engine.rate))
        while self._handle_commands():
            if events := self._engine.step():
                self._connection.send(Events(tuple(events)))
            self._report(time.monotonic())
        self._engine.close()

    def step_begins(self, rows: Sequence[RowKey]) -> None:
        """Report the rows of a step, unless the step before had the same rows."""
        if self._rows != (rows := tuple(rows)):
            self._rows = rows
            self._connection.send(StepBegins(rows))

    def step_failed(self, rows: Sequence[RowKey], trace: str) -> None:
        """Report a step that raised an exception."""
        self._connection.send(StepFailed(tuple(rows), trace))

    def _handle_commands(self) -> bool:
        """Handle all commands in the pipe; return False after `Stop`. An idle loop waits here for a command."""
        wait = HEARTBEAT_S if self._engine.idle else 0.0
        while self._connection.poll(wait):
            match self._connection.recv():
                case Snapshot() as snapshot:
                    self._engine.restore(snapshot)
                case Abort(request_id):
                    self._engine.abort(request_id)
                case Stop():
                    return False
            wait = 0.0
        return True

    def _report(self, now: float) -> None:
        if now - self._last_check >= CHECK_S:
            self._check()
        if now - self._last_heartbeat >= HEARTBEAT_S:
            self._last_heartbeat = now
            self._poll_compilation()
            self._connection.send(Heartbeat(self._engine.stats(), now - self._last_check, self._engine.rate))
        if now - self._last_snapshot >= self._snapshot_s and not self._engine.idle:
            self._connection.send(RowsSaved(self._engine.snapshot().rows))
            self._last_snapshot = time.monotonic()
            self._snapshot_s = max(SNAPSHOT_S, (self._last_snapshot - now) / SNAPSHOT_SHARE)
        if not self._engine.idle:
            self._last_work, self._trimmed = now, False
        elif not self._trimmed and now - self._last_work >= IDLE_S:
            self._trimmed = True
            gc.collect()
            trim_heap()

    def _poll_compilation(self) -> None:
        if self._engine.compilation and (notice := self._engine.compilation.poll()):
            self._check()
            self._connection.send(Notice(notice))

    def _check(self) -> None:
        if not self._engine.check():
            raise RuntimeError("the device does not compute the known answer any more")
        self._last_check = time.monotonic()
