"""The worker's side: an engine behind a pipe."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from enflow.service.protocol.events import Event
from enflow.service.protocol.status import RowKey, SavedRow, Snapshot, Stats

if TYPE_CHECKING:  # the client's process need not load torch
    from enflow.service.engine.core import Engine

BEAT, SAVE, CHECK = 0.2, 2.0, 15.0
"""Seconds between heartbeats, between snapshots of what runs, and between checks of the known answer."""


@dataclass(frozen=True)
class Abort:
    """Stop a work."""

    work: str


@dataclass(frozen=True)
class Stop:
    """Come to an end."""


@dataclass(frozen=True)
class Ready:
    """The engine stands and has computed the known answer; `rate` in pairs of atoms times evaluations a second."""

    rate: float


@dataclass(frozen=True)
class Events:
    """Events."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class Heartbeat:
    """The loop turns; seconds since the known answer was computed last; `rate` as it is by now."""

    stats: Stats
    check_age: float
    rate: float


@dataclass(frozen=True)
class RowsSaved:
    """Where rows stand."""

    rows: Mapping[RowKey, SavedRow]


@dataclass(frozen=True)
class Crashed:
    """The engine raised; the worker ends."""

    error: str


WorkerOrder = Snapshot | Abort | Stop
WorkerReport = Ready | Events | Heartbeat | RowsSaved | Crashed


def serve(connection: Connection, factory: "Callable[[], Engine]") -> None:
    """Drive an engine by the orders of a pipe, until it says stop or breaks off."""
    try:
        _Loop(connection, factory()).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the client is gone, and with it everybody who waits
    except Exception as error:
        connection.send(Crashed(f"{type(error).__name__}: {error}"))
        raise
    finally:
        connection.close()


class _Loop:
    def __init__(self, connection: Connection, engine: "Engine") -> None:
        self._connection, self._engine = connection, engine
        self._checked = self._beaten = self._saved = time.monotonic()

    def run(self) -> None:
        self._check()
        self._connection.send(Ready(self._engine.rate))
        while self._obey():
            if events := self._engine.step():
                self._connection.send(Events(tuple(events)))
            now = time.monotonic()
            if now - self._checked >= CHECK:
                self._check()
            if now - self._beaten >= BEAT:
                self._beaten = now
                self._connection.send(Heartbeat(self._engine.stats(), now - self._checked, self._engine.rate))
            if now - self._saved >= SAVE and not self._engine.idle:
                self._saved = now
                self._connection.send(RowsSaved(self._engine.snapshot().rows))
        self._engine.close()

    def _obey(self) -> bool:
        # An idle loop sleeps on the pipe until an order or the next heartbeat.
        wait = BEAT if self._engine.idle else 0.0
        while self._connection.poll(wait):
            match self._connection.recv():
                case Snapshot() as snapshot:
                    self._engine.restore(snapshot)
                case Abort(work):
                    self._engine.abort(work)
                case Stop():
                    return False
            wait = 0.0
        return True

    def _check(self) -> None:
        if not self._engine.check():
            raise RuntimeError("the device does not compute the known answer any more")
        self._checked = time.monotonic()
