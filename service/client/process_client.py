"""The client of the engine: it runs one in a process of its own, watches it, restarts it, and loses nothing.

The unfinished molecules of a worker that died go on in the next one, from their last snapshot or from their seed; what
its callers have heard once they do not hear again.
"""

import asyncio
import importlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enflow.service.client.admission import AdmissionController
from enflow.service.client.request_tracker import EventQueue, RequestTracker
from enflow.service.client.worker_handle import ThreadRunner, WorkerHandle, WorkerRunner, process_runner
from enflow.service.engine.process import (
    CHECK,
    Abort,
    Crashed,
    Events,
    Heartbeat,
    Ready,
    RowsSaved,
    Stop,
    WorkerOrder,
    WorkerReport,
)
from enflow.service.protocol.events import Event, Reason
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Overloaded, Snapshot, Stats, Unavailable
from enflow.service.settings import Settings

if TYPE_CHECKING:  # a client's process need not load torch
    from enflow.service.engine.core import Engine

WATCH = 0.1
"""Seconds between looks at deadlines and at the worker's pulse."""

SUMMED = ("steps", "row_steps", "nfe", "step_seconds")
"""What workers count, each from zero."""


@dataclass(frozen=True)
class EngineSpec:
    """How to make an engine, in words that cross to another process: "module:function" and its arguments."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> "Engine":
        module, _, function = self.target.partition(":")
        made: Engine = getattr(importlib.import_module(module), function)(**self.arguments)
        return made


@dataclass(frozen=True)
class RestartPolicy:
    """How a worker is looked after.

    Attributes:
        start_s: seconds it may take to be ready; loading torch and weights takes some.
        hang_s: seconds without a heartbeat after which it counts as hung; the longest step takes less.
        crashes: in a row, without a molecule finished between them, that open the breaker.
        cooldown_s: seconds the breaker stays open before another worker is tried.
        queue_s: seconds of work the queue may hold, and `client_share` the part of it that one client may.
    """

    start_s: float = 180.0
    hang_s: float = 60.0
    crashes: int = 5
    cooldown_s: float = 30.0
    queue_s: float = 600.0
    client_share: float = 0.5


class _Client:
    """Everything but the carrier of the worker."""

    def __init__(self, factory: "Callable[[], Engine]", care: RestartPolicy | None = None) -> None:
        self._factory, self._care = factory, care or RestartPolicy()
        self._ledger = RequestTracker()
        self._gate = AdmissionController(self._care.queue_s, self._care.client_share)
        self._worker: WorkerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._now, self._past = Stats(), Stats()
        self._crashes, self._restarts = 0, 0
        self._open_until, self._last_error = 0.0, ""
        self._draining = False

    async def start(self) -> None:
        """Start the worker and its supervision; returns at once, `health` says when it is ready."""
        self._loop = asyncio.get_running_loop()
        self._spawn()
        self._watching = asyncio.create_task(self._watch())

    async def submit(self, work: EngineRequest, answered: frozenset[int] = frozenset()) -> None:
        """Take a work, but for the molecules that another engine has answered.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: no work is taken now.
            ValueError: a work of that id is here.
        """
        if self._draining:
            raise Unavailable("the engine is about to stop and takes no new work")
        if self._breaker_open:
            raise Unavailable(f"the engine has crashed {self._crashes} times in a row: {self._last_error}")
        self._ledger.open(work, answered)
        try:
            self._gate.admit(work)
        except Overloaded:
            self._ledger.forget(work.id)
            raise
        self._order(Snapshot(((work, answered),)))

    def events(self, work: str) -> AsyncIterator[Event]:
        """What becomes of a work, `Done` last.

        Raises:
            KeyError: no such work is here.
        """
        return self._ledger.events(work)

    async def abort(self, work: str) -> None:
        """Stop a work; nothing happens if it has ended."""
        if self._end(work, Reason.CANCELLED, "the request was cancelled"):
            self._order(Abort(work))
        self._ledger.forget(work)

    async def drain(self, timeout: float) -> None:
        """Take no new work, and return when all has ended or the time is up."""
        self._draining = True
        until = time.monotonic() + timeout
        while self._ledger.owed and time.monotonic() < until:
            await asyncio.sleep(WATCH / 2)

    def stats(self) -> Stats:
        """What goes on, and what has been done by all workers together."""
        return replace(
            self._now,
            **{name: getattr(self._past, name) + getattr(self._now, name) for name in SUMMED},
            works=len(self._ledger.owed),
            queue_units=self._gate.queued,
            queue_limit=self._gate.limit,
            queue_seconds=self._gate.queued / self._gate.rate,
            finished=dict(self._ledger.finished),
            failed=dict(self._ledger.failed),
            restarts=self._restarts,
        )

    def health(self) -> Health:
        """Live: it is looked after. Ready: the device computed the known answer lately and work is taken."""
        live = self._watching is not None and not self._watching.done()
        worker, now = self._worker, time.monotonic()
        age = now - worker.pulse if worker else float("inf")
        reason = ""
        if not live:
            reason = "the engine is not started"
        elif self._draining:
            reason = "the engine is about to stop"
        elif self._breaker_open:
            reason = f"the engine has crashed {self._crashes} times in a row: {self._last_error}"
        elif worker is None or not worker.ready:
            reason = "the engine is starting"
        elif now - worker.checked > CHECK + self._care.hang_s:
            reason = f"the device computed a known answer {now - worker.checked:.0f} s ago"
        return Health(live, not reason, reason, age)

    async def close(self) -> None:
        """Stop the worker; what still runs fails."""
        self._draining = True
        if self._watching:
            self._watching.cancel()
        for entry in self._ledger.owed:
            self._end(entry.work.id, Reason.ENGINE, "the engine was stopped")
        self._order(Stop())
        if worker := self._dismiss():
            await asyncio.to_thread(worker.carrier.join, 2.0)
            worker.carrier.kill()

    # The worker's life

    def _carry(self, connection: Connection) -> WorkerRunner:
        raise NotImplementedError

    def _spawn(self) -> None:
        call = self._loop.call_soon_threadsafe
        self._worker = WorkerHandle(
            self._carry,
            hear=lambda worker, report: call(self._hear, worker, report),
            lost=lambda worker: call(self._lost, worker),
        )
        if self._ledger.owed:
            self._worker.order(self._ledger.snapshot())

    def _hear(self, worker: WorkerHandle, report: WorkerReport) -> None:
        if worker is not self._worker:
            return
        worker.pulse = time.monotonic()
        match report:
            case Ready(rate):
                worker.ready, worker.checked, self._gate.rate = True, worker.pulse, rate
            case Events(events):
                for event in events:
                    self._tell(event)
            case Heartbeat(stats, check_age, rate):
                self._now, worker.checked, self._gate.rate = stats, worker.pulse - check_age, rate
            case RowsSaved(rows):
                self._ledger.save(rows)
            case Crashed(error):
                worker.error = error

    def _tell(self, event: Event) -> None:
        match self._ledger.hear(event):
            case EventQueue.ANSWER:
                self._gate.answered(event.id)
                self._crashes = 0
            case EventQueue.END:
                self._gate.release(event.id)

    def _lost(self, worker: WorkerHandle) -> None:
        if worker is not self._worker:
            return
        self._dismiss()
        worker.carrier.kill()
        self._last_error = worker.error
        self._crashes += 1
        self._restarts += 1
        if self._crashes < self._care.crashes:
            self._spawn()
            return
        self._open_until = time.monotonic() + self._care.cooldown_s
        for entry in self._ledger.owed:
            self._end(entry.work.id, Reason.ENGINE, f"the engine crashed too often: {worker.error}")

    def _dismiss(self) -> WorkerHandle | None:
        worker, self._worker = self._worker, None
        if worker:
            worker.dismiss()
            self._past = _sum(self._past, self._now)
            self._now = Stats(device=self._now.device)
        return worker

    @property
    def _breaker_open(self) -> bool:
        return self._crashes >= self._care.crashes

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH)
            for work in self._ledger.late(time.time()):
                self._end(work, Reason.DEADLINE, "the deadline passed before the molecule was finished")
                self._order(Abort(work))
            self._look_after(time.monotonic())

    def _look_after(self, now: float) -> None:
        worker = self._worker
        if worker is None:
            if self._breaker_open and now >= self._open_until:
                self._crashes = self._care.crashes - 1  # one more try; the next crash opens the breaker again
                self._spawn()
            return
        patience = self._care.hang_s if worker.ready else self._care.start_s
        if now - worker.pulse > patience:
            worker.error = f"the worker gave no sign for {patience:.0f} s"
            worker.carrier.kill()
            self._lost(worker)

    def _order(self, order: WorkerOrder) -> None:
        if self._worker:
            self._worker.order(order)

    def _end(self, work: str, reason: Reason, detail: str) -> bool:
        self._gate.release(work)
        return self._ledger.end(work, reason, detail)


def _sum(past: Stats, now: Stats) -> Stats:
    return replace(past, **{name: getattr(past, name) + getattr(now, name) for name in SUMMED})


class InProcessClient(_Client):
    """The engine in a thread: for tests and small tools. A hung thread cannot be killed, only left behind."""

    def _carry(self, connection: Connection) -> WorkerRunner:
        return ThreadRunner(connection, self._factory)


class ProcessClient(_Client):
    """The engine in a process of its own, started afresh (spawn): what happens to it does not happen to the service."""

    _processes: BaseContext = multiprocessing.get_context("spawn")

    def __init__(self, factory: EngineSpec, care: RestartPolicy | None = None) -> None:
        super().__init__(factory, care)

    def _carry(self, connection: Connection) -> WorkerRunner:
        return process_runner(self._processes, connection, self._factory)


def engine_client(settings: Settings, care: RestartPolicy | None = None, weights: Path | None = None) -> ProcessClient:
    """The engine of these settings, or of other weights, in a process of its own."""
    arguments = {"weights": str(weights or settings.weights), "device": settings.device, "threads": settings.threads}
    return ProcessClient(EngineSpec("enflow.service.engine.core:from_weights", arguments), care)
