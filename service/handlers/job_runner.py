"""The computation of all jobs: parts of the molecules, one after the other, beside the requests of callers."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from enflow.service.handlers.job_work import JobWork, model_for, prepare_work
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.jobs.records import JobPart, JobRecord
from enflow.service.jobs.store import JobStore, StoreError
from enflow.service.problems import EngineFailure, Problem, from_exception
from enflow.service.protocol.events import Reason
from enflow.service.rendering.encoders import Answer
from enflow.service.rendering.job_results import PartResults, failed_results, part_results
from enflow.service.schemas.jobs import JobRequest, JobRequestBody
from enflow.service.schemas.requests import SampleRequest
from enflow.service.schemas.responses import LikelihoodResponse, ScoreErrorOut
from enflow.service.settings import JobSettings
from enflow.service.telemetry import log

T = TypeVar("T")

PARTS = 2
"""Parts in progress: the device works on the second while the last molecules of the first are finished."""

IDLE_S, RETRY_S, MAX_RETRY_S = 5.0, 2.0, 60.0
"""Seconds between two looks at the store without news, and before a part is tried again that the engine refused; the
most seconds before a part is tried again on which the engine failed, twice as many after each failure."""

DAY_S = 86_400.0

TRANSIENT = frozenset({"unavailable", "busy-client", "deadline"})
"""Problems that end by themselves."""

MAX_FAILURES = 6
"""Failures of an engine that was ready on one part, after which its molecules without a result have failed: a molecule
that fails every time would hold up its job, and all others behind it."""

STOPPED = frozenset({str(Reason.ENGINE), str(Reason.CANCELLED), str(Reason.DEADLINE)})
"""Reasons of a failure that is none of the molecule: its part is computed again."""


@dataclass(eq=False)
class ActiveJob:
    """A job in progress.

    Attributes:
        record: the job when it was read from the store.
        work: the work, with its structures.
        taken: the first place that no part has taken.
        tasks: the parts in progress, in their order.
        stored: monotonic seconds of the last part that was stored.
    """

    record: JobRecord
    work: JobWork
    taken: int
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    stored: float = field(default_factory=time.monotonic)

    @property
    def first_index(self) -> int:
        """The index of the first attempt at place 0."""
        return self.work.body.first_index if isinstance(self.work.body, SampleRequest) else 0

    def take(self) -> range:
        """Return the places of the next part."""
        part = range(self.taken, min(self.taken + self.work.part_size, self.record.size))
        self.taken = part.stop
        return part


class JobRunner:
    """Computes the jobs of a store.

    One service of those that share a database computes. Every client's oldest job has its turn, one part at a time.

    Args:
        store: the jobs.
        registry: the models.
        settings: the limits of jobs.
        background: bounds the molecules whose bonds are inferred at once.
    """

    def __init__(
        self, store: JobStore, registry: ModelRegistry, settings: JobSettings, background: asyncio.Semaphore
    ) -> None:
        self._store, self._registry, self._settings = store, registry, settings
        self._background = background
        self._active: dict[str, ActiveJob] = {}
        self._last_turn: dict[str, int] = {}
        self._counter = itertools.count()
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Look at the store now: a job was added or has ended."""
        self._news.set()

    async def run(self) -> None:
        """Compute jobs until the task is cancelled."""
        try:
            while True:
                self._news.clear()  # before the step: what is added during it needs another look
                await self._step_safely()
                tasks = [task for job in self._active.values() for task in job.tasks]
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait([news, *tasks], timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        finally:
            self._drop(list(self._active))

    async def prepare(self, body: JobRequestBody) -> JobWork:
        """Return the work of a job.

        Raises:
            Problem: the job cannot be carried out.
        """
        served = model_for(self._registry, body, self._settings.max_molecules, self._background)
        return await prepare_work(self._registry, body, served)

    async def _step_safely(self) -> None:
        try:
            await self._step()
        except Exception as error:  # noqa: BLE001 - most often the store does not answer; the jobs go on when it does
            log.error("jobs", error=type(error).__name__, reason=str(error), cause=str(error.__cause__))
            self._drop(list(self._active))
            await asyncio.sleep(RETRY_S)

    async def _step(self) -> None:
        if not await asyncio.to_thread(self._store.lead):
            self._drop(list(self._active))
            return
        await asyncio.to_thread(self._store.remove_ended, time.time() - DAY_S * self._settings.keep_days)
        unfinished = await asyncio.to_thread(self._store.unfinished)
        self._drop([job_id for job_id in self._active if job_id not in {each.id for each in unfinished}])
        for job in self._active.values():
            job.tasks = [task for task in job.tasks if not task.done()]
        while not self._registry.draining and sum(len(job.tasks) for job in self._active.values()) < PARTS:
            record = self._next(unfinished)
            if record is None:
                return
            self._last_turn[record.client] = next(self._counter)
            if active := self._active.get(record.id) or await self._activate(record):
                self._start_part(active)
            else:
                unfinished.remove(record)

    def _next(self, unfinished: Sequence[JobRecord]) -> JobRecord | None:
        """Return the oldest job with places left of the client whose last turn was first."""
        waiting = [each for each in unfinished if each.id not in self._active or self._has_places(each)]
        by_client = {each.client: each for each in reversed(waiting)}
        return min(by_client.values(), key=lambda each: self._last_turn.get(each.client, -1), default=None)

    def _has_places(self, record: JobRecord) -> bool:
        return self._active[record.id].taken < record.size

    async def _activate(self, record: JobRecord) -> ActiveJob | None:
        """Return the job with its work; end it where it cannot be carried out."""
        stored = await asyncio.to_thread(self._store.get, record.id)
        if stored is None or not stored.open:
            return None
        work = await self._guarded(record.id, self._reopen(stored))
        if work is None:
            return None
        await asyncio.to_thread(self._store.begin, record.id)
        job = self._active[record.id] = ActiveJob(stored, work, stored.done)
        return job

    async def _reopen(self, record: JobRecord) -> JobWork:
        body = JobRequest.model_validate_json(f'{{"{record.kind}": {record.request}}}', strict=True).body
        work = await self.prepare(body)
        card = work.served.card
        if (card.name, card.sha256) != (record.model, record.sha256):
            expected = f"{record.model} with the SHA-256 {record.sha256[:12]}"
            raise Problem("invalid", f"found the weights {card.name} {card.sha256[:12]}, expected {expected} as before")
        return work

    def _start_part(self, job: ActiveJob) -> None:
        part, before = job.take(), job.tasks[-1:]
        compute = self._compute(job, part, before)
        job.tasks.append(asyncio.create_task(self._compute_or_drop(job.record.id, compute)))

    async def _compute_or_drop(self, job_id: str, compute: Awaitable[bool]) -> None:
        if not await self._guarded(job_id, compute):
            self._drop([job_id])

    async def _compute(self, job: ActiveJob, part: range, before: Sequence[asyncio.Task[None]]) -> bool:
        """Compute and store a part; return False where the job has ended."""
        results = await self._results(job, part)
        if before:
            await asyncio.wait(before)
        data = await asyncio.to_thread(results.packed)
        if not await asyncio.to_thread(self._store.make_room, self._settings.max_stored_bytes - len(data)):
            limit = f"ENFLOW_JOBS__MAX_STORED_BYTES, {self._settings.max_stored_bytes}"
            raise Problem("unavailable", f"the stored jobs have more bytes than the limit {limit}")
        now = time.monotonic()
        row = JobPart(part.start, part.stop, data, results.failed, results.tried, now - job.stored)
        job.stored = now
        stored = await asyncio.to_thread(self._store.store_part, job.record.id, row)
        return stored is not None and stored.open

    async def _results(self, job: ActiveJob, part: range) -> PartResults:
        """Return the results of a part: it waits while the engine refuses it, and is tried again after failures."""
        record, failures = job.record, 0
        while True:
            try:
                answer = await job.work.run(part, record.seed, record.id)
                results = await asyncio.to_thread(part_results, answer, part, job.first_index, record.size)
                stopped = _was_stopped(answer)
            except EngineFailure as problem:
                scored, stopped = job.work.structures if record.kind == "likelihood" else None, True
                results = failed_results(problem, part, job.first_index, scored, record.id)
            except Problem as problem:
                if problem.name not in TRANSIENT:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            failures += stopped
            if not stopped or failures >= MAX_FAILURES:
                return results
            log.warning("jobs", job=record.id, reason="the engine failed on a part", first=part.start, times=failures)
            await asyncio.sleep(min(RETRY_S * 2 ** (failures - 1), MAX_RETRY_S))
            while not job.work.served.client.health().ready:  # an engine that is down says nothing about the part
                await asyncio.sleep(RETRY_S)

    async def _guarded(self, job_id: str, work: Awaitable[T]) -> T | None:
        """Return the result of some work on a job; end the job as failed where the work raises."""
        try:
            return await work
        except StoreError as error:
            log.error("jobs", job=job_id, reason=str(error), cause=str(error.__cause__))
            await asyncio.sleep(RETRY_S)
            return None
        except Exception as error:  # noqa: BLE001 - a defect ends one job, not the others
            problem = from_exception(error)
            if problem.name == "internal":
                log.error("defect", job=job_id, error=type(error).__name__, exc_info=True)
            await self._fail(job_id, problem.detail)
            return None

    async def _fail(self, job_id: str, detail: str) -> None:
        try:
            await asyncio.to_thread(self._store.end, job_id, "failed", detail)
        except StoreError as error:  # the job stays open, and fails again when the store answers
            log.error("jobs", job=job_id, reason=str(error), cause=str(error.__cause__))

    def _drop(self, job_ids: Sequence[str]) -> None:
        """Forget jobs and the parts in progress; a job that has not ended goes on from the store."""
        for job_id in job_ids:
            if job := self._active.pop(job_id, None):
                for task in job.tasks:
                    if task is not asyncio.current_task():
                        task.cancel()


def _was_stopped(answer: Answer) -> bool:
    """Return True where a molecule failed because the engine stopped."""
    document = answer.document
    if isinstance(document, LikelihoodResponse):
        errors = [each.error for each in document.results if isinstance(each, ScoreErrorOut)]
        return any(error.status == 503 for error in errors)
    unscored = (getattr(each, "nll_error", "").partition(":")[0] for each in document.molecules)
    return any(each.reason in STOPPED for each in document.failed) or not STOPPED.isdisjoint(unscored)
