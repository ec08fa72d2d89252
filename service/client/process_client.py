"""The client of one engine: it runs the engine in a worker process, supervises it, and replaces it when it fails.

The unfinished samples of a worker that failed continue in the next worker, from their last snapshot or from their seed.
An answer that the caller has received once is not repeated.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path

from enflow.model.card import read_card
from enflow.service.client.admission import AdmissionController
from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.request_tracker import CrashIsolation, Delivery, RequestTracker
from enflow.service.client.worker_handle import CircuitBreaker, WorkerHandle, WorkerRunner, start_process
from enflow.service.engine.process import (
    CHECK_S,
    Abort,
    Crashed,
    Events,
    Heartbeat,
    Notice,
    Ready,
    RowsSaved,
    StepBegins,
    StepFailed,
    Stop,
    WorkerCommand,
    WorkerReport,
)
from enflow.service.processes import UninterruptedContext
from enflow.service.protocol.events import Done, Event, Failed, Reason
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import COUNTERS, Health, Overloaded, SampleKey, Snapshot, Stats, Unavailable
from enflow.service.settings import Settings
from enflow.service.telemetry import log

POLL_S = 0.1
"""Seconds between two checks of the deadlines and of the worker."""


class ProcessClient:
    """An engine in a process of its own, so that its crash does not end the service.

    Args:
        spec: makes the engine, in the new process.
        config: time limits, restarts, queue.
    """

    _context: BaseContext = UninterruptedContext()

    def __init__(self, spec: EngineSpec, config: ClientConfig | None = None) -> None:
        self._spec, self._config = spec, config or ClientConfig()
        self._tracker, self._isolation = RequestTracker(), CrashIsolation()
        self._admission = AdmissionController(self._config.queue_s, self._config.client_share)
        self._worker: WorkerHandle | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._stats, self._earlier_stats = Stats(), Stats()
        self._breaker = CircuitBreaker(self._config.max_crashes, self._config.breaker_s)
        self._restarts = 0
        self._draining = False

    async def start(self) -> None:
        """Start the worker and its supervision; return at once, `health` says when the engine is ready."""
        self._loop = asyncio.get_running_loop()
        self._start_worker()
        self._supervision = asyncio.create_task(self._supervise())

    async def submit(self, request: EngineRequest, answered: frozenset[int] = frozenset()) -> None:
        """Submit a request without the samples that another engine has answered.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: the engine accepts no requests now.
            ValueError: a request with this id was submitted before.
        """
        if self._draining:
            raise Unavailable("the engine is about to stop and accepts no new requests")
        if self._breaker.is_open:
            raise Unavailable(self._breaker.reason, max(1.0, self._breaker.retry_at - time.monotonic()))
        self._tracker.add(request, answered)
        try:
            self._admission.admit(request)
        except Overloaded:
            self._tracker.forget(request.id)
            raise
        self._send(Snapshot(((request, answered),)))

    def events(self, request_id: str) -> AsyncIterator[Event]:
        """Return the events of a request; `Done` is the last.

        Raises:
            KeyError: there is no request with this id.
        """
        return self._tracker.events(request_id)

    async def abort(self, request_id: str) -> None:
        """Abort a request; do nothing if it has ended."""
        if self._fail(request_id, Reason.CANCELLED, "the request was cancelled"):
            self._send(Abort(request_id))
        self._tracker.forget(request_id)

    async def drain(self, timeout: float) -> None:
        """Accept no new requests, and return when all have ended or after `timeout` seconds."""
        self._draining = True
        until = time.monotonic() + timeout
        while self._tracker.unfinished and time.monotonic() < until:
            await asyncio.sleep(POLL_S / 2)

    def stats(self) -> Stats:
        """Return the state, and the counters over all workers."""
        return replace(
            self._stats,
            requests=len(self._tracker.unfinished),
            queue_units=self._admission.queued,
            queue_limit=self._admission.limit,
            queue_seconds=self._admission.queued_seconds,
            rate=self._admission.rate,
            finished=dict(self._tracker.finished),
            failed=dict(self._tracker.failed),
            restarts=self._restarts,
        )

    def health(self) -> Health:
        """Return the health. Live: the worker is supervised. Ready: it accepts requests, and its device was checked."""
        live = self._supervision is not None and not self._supervision.done()
        reason = self._reason_not_ready() if live else "the engine is not started"
        age = time.monotonic() - self._worker.last_report if self._worker else float("inf")
        return Health(live, not reason, reason, age)

    async def close(self) -> None:
        """Stop the worker; unfinished samples fail."""
        self._draining = True
        if self._supervision:
            self._supervision.cancel()
        for tracked in self._tracker.unfinished:
            self._fail(tracked.request.id, Reason.ENGINE, "the engine was stopped")
        self._send(Stop())
        if worker := self._detach_worker():
            if worker.ready:  # one that loads its weights reads no command
                await asyncio.to_thread(worker.runner.join, 2.0)
            worker.runner.kill()
            await asyncio.to_thread(worker.runner.join, 2.0)

    def _reason_not_ready(self) -> str:
        worker = self._worker
        if self._draining:
            return "the engine is about to stop"
        if self._breaker.is_open:
            return self._breaker.reason
        if worker is None or not worker.ready:
            return "the engine is starting"
        age = time.monotonic() - worker.last_check
        if age > CHECK_S + self._config.hang_s:
            return f"the device computed a known answer {age:.0f} s ago"
        return ""

    # Reports of the worker

    def _on_report(self, worker: WorkerHandle, report: WorkerReport) -> None:  # noqa: C901 - one case for each report
        if worker is not self._worker:
            return
        worker.last_report = time.monotonic()
        match report:
            case Ready(rate):
                worker.ready, worker.last_check, self._admission.rate = True, worker.last_report, rate
            case Events(events):
                for event in events:
                    self._deliver(event)
            case Heartbeat(stats, check_age, rate):
                self._stats, self._admission.rate = _sum(stats, self._earlier_stats), rate
                worker.last_check = worker.last_report - check_age
            case RowsSaved(rows):
                self._tracker.save_rows(rows)
            case StepBegins(rows):
                worker.rows = rows
            case StepFailed(rows, trace):
                log.error("step failed", samples=sorted({key[:2] for key in rows}), traceback=trace)
            case Notice(text):
                log.info(text)
            case Crashed(error, trace):
                worker.error, worker.trace = error, trace

    def _deliver(self, event: Event) -> None:
        match self._tracker.deliver(event):
            case Delivery.ANSWER:
                self._on_answer(event)
            case Delivery.END:
                self._admission.release(event.id)

    def _on_answer(self, event: Event) -> None:
        assert not isinstance(event, Done), "Done answers no sample"
        self._admission.sample_finished(event.id)
        self._isolation.discard((event.id, event.index))
        if not (isinstance(event, Failed) and event.reason == Reason.CRASH):
            self._breaker.record_answer()

    # Supervision

    def _start_runner(self, connection: Connection) -> WorkerRunner:
        return start_process(self._context, connection, self._spec)

    def _start_worker(self) -> None:
        call = self._loop.call_soon_threadsafe
        self._worker = WorkerHandle(
            self._start_runner,
            on_report=lambda worker, report: call(self._on_report, worker, report),
            on_exit=lambda worker: call(self._on_exit, worker),
        )
        if self._tracker.unfinished:
            self._worker.send(self._tracker.snapshot(self._isolation.groups))

    def _on_exit(self, worker: WorkerHandle) -> None:
        if worker is not self._worker:
            return
        self._detach_worker()
        worker.runner.kill()
        suspects = self._tracker.missing(worker.rows)
        log.error("worker ended", reason=worker.error, traceback=worker.trace, samples=sorted(suspects))
        self._breaker.error = worker.error
        self._restarts += 1
        self._attribute_crash(suspects)
        if self._breaker.is_open:
            for tracked in self._tracker.unfinished:
                self._fail(tracked.request.id, Reason.ENGINE, f"the engine crashed too often: {worker.error}")
        else:
            self._start_worker()

    def _attribute_crash(self, suspects: set[SampleKey]) -> None:
        if cause := self._isolation.crash(suspects):
            detail = f"the molecule ends the engine's process: {self._breaker.error}"
            self._deliver(Failed(*cause, Reason.CRASH, detail))
            self._breaker.record_cause()
        elif len(suspects) <= 1:  # a crash with more suspects only divides them, and says nothing about the engine
            self._breaker.record_crash()

    def _detach_worker(self) -> WorkerHandle | None:
        worker, self._worker = self._worker, None
        if worker:
            worker.close()
            self._earlier_stats = self._stats
            self._stats = _sum(Stats(device=self._stats.device), self._stats)
        return worker

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            for request_id in self._tracker.expired(time.time()):
                self._fail(request_id, Reason.DEADLINE, "the deadline passed before the molecule was finished")
                self._send(Abort(request_id))
            self._check_worker(time.monotonic())

    def _check_worker(self, now: float) -> None:
        worker = self._worker
        if worker is None:
            if self._breaker.allow_one():
                self._start_worker()
            return
        # A start that was too slow gets twice the time: on a busy machine it would otherwise never end.
        limit = self._config.hang_s if worker.ready else self._config.start_s * 2**self._breaker.crashes
        if now - worker.last_report > limit:
            worker.error = f"the worker sent no report for {limit:.0f} s"
            worker.runner.kill()
            self._on_exit(worker)

    def _send(self, command: WorkerCommand) -> None:
        if self._worker:
            self._worker.send(command)

    def _fail(self, request_id: str, reason: Reason, detail: str) -> bool:
        self._admission.release(request_id)
        return self._tracker.fail(request_id, reason, detail)


def _sum(stats: Stats, earlier: Stats) -> Stats:
    return replace(stats, **{name: getattr(stats, name) + getattr(earlier, name) for name in COUNTERS})


def engine_client(settings: Settings, config: ClientConfig | None = None, weights: Path | None = None) -> ProcessClient:
    """Return the client of an engine with these settings; `weights` replaces the first model's folder.

    Every worker computes with the weights that are in the folder now, also one that starts later.

    Raises:
        WeightsError: the folder has no card.
    """
    folder = weights or settings.weights
    arguments = {
        "weights": str(folder),
        "device": settings.device,
        "threads": settings.threads,
        "sha256": read_card(folder).weights_sha256,
        "compile_velocity": settings.compile,
    }
    return ProcessClient(EngineSpec("enflow.service.engine.loading:from_weights", arguments), config)
