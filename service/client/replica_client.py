"""The client of many engines: it splits a request into portions, and a portion that a replica loses goes to another.

The seed and the index fix a molecule. So it does not matter which replica computes a sample, nor how often it begins.
The caller receives one answer for each sample.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from enflow.service.client.admission import AdmissionController
from enflow.service.client.portions import Portion, split
from enflow.service.client.replica_pool import ReplicaLost, ReplicaPool, ReplicaStatus
from enflow.service.client.request_tracker import Delivery, RequestTracker
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import COUNTERS, Health, Overloaded, Stats, Unavailable

SPLIT_LOSSES, MAX_LOSSES = 2, 5
"""Replicas that are lost in a row with one portion, without an answer: after the first number the portion is halved, to
find the sample that ends them; after the second number a portion of one sample fails."""

REFUSAL_LIMIT_S = 120.0
"""Seconds that a portion waits while every replica refuses it; longer than the replacement of a replica takes."""

POLL_S, STALE_S = 1.0, 45.0
"""Seconds between two queries of the replicas' status, and the age at which a status counts no more. A cluster takes up
to half a minute to notice that a machine has failed."""

GAUGES = ("waiting", "running", "occupied", "slots", "memory_bytes")


class ReplicaClient:
    """An `EngineClient` for all replicas of a pool.

    Args:
        pool: the replicas.
        queue_s: seconds of computing that the queue may hold.
        client_share: the part of the queue that one client may hold.
    """

    def __init__(self, pool: ReplicaPool, queue_s: float = 600.0, client_share: float = 0.5) -> None:
        self._pool = pool
        self._tracker = RequestTracker()
        self._admission = AdmissionController(queue_s, client_share)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._supervision: list[asyncio.Task[None]] = []
        self._attempts = itertools.count()
        self._replicas: Sequence[ReplicaStatus] = ()
        self._last_stats: dict[str, Stats] = {}
        self._last_status, self._losses = -math.inf, 0
        self._draining = False

    async def start(self) -> None:
        """Start to query the replicas; return at once, `health` says when a replica is ready."""
        self._supervision = [asyncio.create_task(self._poll_replicas()), asyncio.create_task(self._watch_deadlines())]

    async def submit(self, request: EngineRequest) -> None:
        """Submit a request.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: the engines accept no requests now.
            ValueError: a request with this id was submitted before.
        """
        if self._draining:
            raise Unavailable("the engines are about to stop and accept no new requests")
        self._tracker.add(request)
        try:
            self._admission.admit(request)
        except Overloaded:
            self._tracker.forget(request.id)
            raise
        task = self._tasks[request.id] = asyncio.create_task(self._run(request))
        task.add_done_callback(lambda ended: self._on_task_end(request.id, ended))

    def events(self, request_id: str) -> AsyncIterator[Event]:
        """Return the events of a request; `Done` is the last.

        Raises:
            KeyError: there is no request with this id.
        """
        return self._tracker.events(request_id)

    async def abort(self, request_id: str) -> None:
        """Abort a request; do nothing if it has ended."""
        self._fail(request_id, Reason.CANCELLED, "the request was cancelled")
        self._tracker.forget(request_id)

    async def drain(self, timeout: float) -> None:
        """Accept no new requests, and return when all have ended or after `timeout` seconds."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=timeout)

    def stats(self) -> Stats:
        """Return the state of all replicas together; finished and failed samples are those of this client.

        Restarts are those of the engines, and portions that began again on another replica.
        """
        stats = [status.stats for status in self._replicas]
        counters = {
            name: sum(getattr(each, name) for each in self._last_stats.values()) for name in (*COUNTERS, "restarts")
        }
        return Stats(
            **{name: sum(getattr(each, name) for each in stats) for name in GAUGES},
            **counters | {"restarts": counters["restarts"] + self._losses},
            requests=len(self._tracker.unfinished),
            queue_units=self._admission.queued,
            queue_limit=self._admission.limit,
            queue_seconds=self._admission.queued_seconds,
            rate=self._admission.rate,
            device=", ".join(sorted({f"{len(stats)} x {each.device}" for each in stats})),
            finished=dict(self._tracker.finished),
            failed=dict(self._tracker.failed),
        )

    def health(self) -> Health:
        """Return the health. Live: the replicas are watched. Ready: at least one is, and requests are accepted."""
        live = bool(self._supervision) and not any(task.done() for task in self._supervision)
        reason = self._reason_not_ready() if live else "the replicas are not watched"
        age = min((status.health.step_age for status in self._replicas), default=math.inf)
        return Health(live, not reason, reason, age)

    @property
    def replicas(self) -> Sequence[ReplicaStatus]:
        """The replicas at the last query."""
        return self._replicas

    async def close(self) -> None:
        """Stop; unfinished samples fail."""
        self._draining = True
        tasks = [*self._supervision, *self._tasks.values()]
        for tracked in self._tracker.unfinished:
            self._fail(tracked.request.id, Reason.ENGINE, "the engine was stopped")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reason_not_ready(self) -> str:
        healths = [status.health for status in self._replicas]
        age = time.monotonic() - self._last_status
        if self._draining:
            return "the engines are about to stop"
        if not any(health.ready for health in healths):
            return "; ".join(sorted({health.reason for health in healths})) or "there is no engine yet"
        return f"no replica has answered for {age:.0f} s" if age > STALE_S else ""

    # One request

    async def _run(self, request: EngineRequest) -> None:
        # At most as many portions at a time as there are replicas, which may become more. The other portions wait here
        # for the first free replica. So a large request is one request among others for the scheduler of an engine.
        started = time.monotonic()
        portions = [Portion(each) for each in split(request, max(1, len(self._replicas)))]
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            for portion in portions:
                while len(running) >= max(1, len(self._replicas)):
                    _, running = await asyncio.wait(running, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                running.add(group.create_task(self._run_portion(request.id, portion)))
        queue_ms = min((portion.queue_ms for portion in portions), default=0.0)
        integrate_ms = max(0.0, 1e3 * (time.monotonic() - started) - queue_ms)
        self._deliver(Done(request.id, queue_ms, integrate_ms, sum(portion.nfe for portion in portions)))

    async def _run_portion(self, request_id: str, portion: Portion) -> None:
        accepted = time.monotonic()
        while portion.missing:
            answered = len(portion.answered)
            try:
                error = await self._attempt(request_id, portion)
                portion.losses = portion.losses + 1 if len(portion.answered) == answered else 0
                accepted = time.monotonic()
            except Unavailable as refusal:  # a refusal is not a loss
                error = str(refusal)
            if portion.losses == SPLIT_LOSSES and len(portion.request) > 1:
                await self._run_halves(request_id, portion)
            elif portion.losses == MAX_LOSSES:
                self._fail_portion(request_id, portion, f"{MAX_LOSSES} replicas were lost: {error}")
            elif time.monotonic() - accepted > REFUSAL_LIMIT_S:
                self._fail_portion(request_id, portion, f"no replica accepted it for {REFUSAL_LIMIT_S:g} s: {error}")
            elif portion.missing:
                await asyncio.sleep(0.1 * 2**portion.losses)

    async def _run_halves(self, request_id: str, portion: Portion) -> None:
        for half in portion.halves():
            await self._run_portion(request_id, half)
            portion.merge(half)

    def _fail_portion(self, request_id: str, portion: Portion, detail: str) -> None:
        for index in portion.missing:
            self._deliver(Failed(request_id, index, Reason.ENGINE, detail))
            portion.answered.add(index)

    async def _attempt(self, request_id: str, portion: Portion) -> str:
        """Run a portion on one replica; return the reason if the replica did not answer for all samples.

        Raises:
            Unavailable: the replica accepts no requests now.
        """
        error = "the replica gave no reason"
        # A new id for each attempt, since the replica may still compute an earlier one.
        request = replace(portion.request, id=f"{request_id}.{next(self._attempts)}")
        try:
            async with aclosing(self._pool.run(request, frozenset(portion.answered))) as bundles:
                async for event in _flatten(bundles):
                    if isinstance(event, Failed) and event.reason == Reason.ENGINE:
                        error = event.detail  # the engine failed, and another one may succeed
                    else:
                        self._receive(request_id, portion, event)
        except ReplicaLost as lost:
            self._losses += 1
            return str(lost)
        return error

    def _receive(self, request_id: str, portion: Portion, event: Event) -> None:
        if isinstance(event, Done):
            portion.queue_ms = portion.queue_ms or event.queue_ms
            portion.nfe += event.nfe
            return
        self._deliver(replace(event, id=request_id))
        if not isinstance(event, Progress):
            portion.answered.add(event.index)

    def _deliver(self, event: Event) -> None:
        match self._tracker.deliver(event):
            case Delivery.ANSWER:
                self._admission.sample_finished(event.id)
            case Delivery.END:
                self._admission.release(event.id)

    def _on_task_end(self, request_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(request_id, None)
        if not task.cancelled() and (error := task.exception()):
            self._fail(request_id, Reason.ENGINE, f"the client failed: {type(error).__name__}")

    def _fail(self, request_id: str, reason: Reason, detail: str) -> None:
        if task := self._tasks.get(request_id):
            task.cancel()
        self._admission.release(request_id)
        self._tracker.fail(request_id, reason, detail)

    # Supervision

    async def _poll_replicas(self) -> None:
        while True:
            try:
                self._replicas = await self._pool.statuses()
                self._last_status = time.monotonic()
                self._last_stats |= {status.replica: status.stats for status in self._replicas}
                self._admission.rate = sum(status.rate for status in self._replicas) or self._admission.rate
            except TimeoutError:
                pass  # the last status counts until it is stale
            await asyncio.sleep(POLL_S)

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(POLL_S / 10)
            for request_id in self._tracker.expired(time.time()):
                self._fail(request_id, Reason.DEADLINE, "the deadline passed before the molecule was finished")


async def _flatten(bundles: AsyncIterator[Sequence[Event]]) -> AsyncIterator[Event]:
    async for bundle in bundles:
        for event in bundle:
            yield event
