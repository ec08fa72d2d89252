"""The handlers of the job endpoints: add, show, list, cancel or remove a job, and read its results."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar

from enflow.service.chemistry.rdkit_pool import WrittenForm
from enflow.service.handlers.context import random_seed
from enflow.service.handlers.job_runner import DAY_S, JobRunner
from enflow.service.handlers.job_work import solver_fields, stored_request
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.jobs.records import JobRecord
from enflow.service.jobs.store import JobStore, StoreError
from enflow.service.media_types import HTML, ZIP
from enflow.service.problems import At, Problem, retry_after
from enflow.service.rendering.job_results import (
    LIKELIHOOD_FORMATS,
    MOLECULE_FORMATS,
    ResultsHead,
    encode_results,
    unpack,
)
from enflow.service.schemas.jobs import JobOut, JobRequest, JobsOut
from enflow.service.schemas.responses import ModelOut
from enflow.service.settings import JobSettings

P = ParamSpec("P")
T = TypeVar("T")

LISTED = 100
"""The most jobs of a list."""


@dataclass(frozen=True)
class JobResults:
    """The results of some molecules of a job.

    Attributes:
        body: the pieces of the answer.
        next: the first place that the answer does not hold.
        more: True where the job has or will have results from there on.
    """

    body: AsyncIterator[bytes]
    next: int
    more: bool


class JobsHandler:
    """The handler of all job endpoints.

    Args:
        store: the jobs.
        runner: computes them.
        registry: the models.
        settings: the limits of jobs.
        private: True lets a client see its own jobs only.
    """

    def __init__(
        self, store: JobStore, runner: JobRunner, registry: ModelRegistry, settings: JobSettings, *, private: bool
    ) -> None:
        self._store, self._runner, self._registry = store, runner, registry
        self._settings, self._private = settings, private

    async def add(self, request: JobRequest, client: str) -> JobOut:
        """Store a new job, once its body is known to fit its model.

        Raises:
            Problem: the body cannot be carried out, the client has too many jobs, or the store is full.
        """
        try:
            work = await self._runner.prepare(request.body)
        except Problem as problem:
            problem.errors = [At(f"/{request.kind}{each.at}", each.message) for each in problem.errors]
            raise
        if not work.size:
            raise Problem("invalid", "found no structure, expected at least one")
        card, seed = work.served.card, request.body.seed
        body = stored_request(work, request.body)
        job = JobRecord(
            id=secrets.token_hex(16),
            client=client,
            kind=request.kind,
            request=body,
            stored_bytes=len(body.encode()),
            seed=random_seed() if seed is None else seed,
            model=card.name,
            sha256=card.sha256,
            size=work.size,
            seconds_each=work.seconds_each,
            created=time.time(),
        )
        await self._make_room(job)
        await self._run(self._store.add, job)
        self._runner.wake()
        return await self._shown(job)

    async def show(self, job_id: str, client: str) -> JobOut:
        """Return the state of a job.

        Raises:
            Problem: not-found.
        """
        return await self._shown(await self._find(job_id, client))

    async def newest(self, client: str) -> JobsOut:
        """Return the newest jobs, newest first."""
        found = await self._run(self._store.newest, client if self._private else None, LISTED)
        unfinished = await self._run(self._store.unfinished)
        return JobsOut(jobs=[self._document(each, unfinished) for each in found])

    async def delete(self, job_id: str, client: str) -> JobOut:
        """Cancel a job that has not ended; its results so far stay. Remove one that has ended.

        Raises:
            Problem: not-found.
        """
        job = await self._find(job_id, client)
        if not await self._run(self._store.end, job_id, "cancelled"):
            await self._run(self._store.remove, job_id)
            return await self._shown(job)
        self._runner.wake()
        return await self._shown(await self._find(job_id, client))

    async def formats(self, job_id: str, client: str) -> Sequence[str]:
        """Return the media types of the results of a job.

        Raises:
            Problem: not-found.
        """
        job = await self._find(job_id, client)
        if job.kind == "likelihood":
            return LIKELIHOOD_FORMATS
        served = self._registry.models.get(job.model)
        return [each for each in MOLECULE_FORMATS if served is None or each in served.formats]

    async def results(
        self, job_id: str, client: str, places: tuple[int, int | None], media: tuple[str, Mapping[str, str]]
    ) -> JobResults:
        """Return the results of some places of a job, as far as they are there.

        Args:
            job_id: the job.
            client: the caller.
            places: the first place from 0, and the number of places; None = all that are there.
            media: the media type and its parameters.

        Raises:
            Problem: not-found, or too many molecules for a format that is written as a whole.
        """
        job = await self._find(job_id, client)
        (first, count), (media_type, parameters) = places, media
        stop = max(first, job.done if count is None else min(job.done, first + count))
        v3000 = parameters.get("version", "").upper() == "V3000"
        limit = self._registry.limits.max_molecules
        if (media_type in (HTML, ZIP) or v3000) and stop - first > limit:
            expected = f"expected a count of at most {limit} for this format"
            raise Problem("invalid", f"found {stop - first} molecules, {expected}", [At("/count", expected)])
        head = ResultsHead(
            {
                "id": job.id,
                "state": job.state,
                "seed": job.seed,
                "model": {"name": job.model, "sha256": job.sha256},
                **await asyncio.to_thread(solver_fields, job),
                "first": first,
                "next": stop,
            },
            job.kind == "likelihood",
        )
        form: WrittenForm = "sdf-v3000" if v3000 else "html" if media_type == HTML else "sdf"
        batches = self._batches(job.id, first, stop)
        body = encode_results(batches, media_type, head, self._registry.first.chemistry, form)
        return JobResults(body, stop, stop < (job.size if job.open else job.done))

    async def _batches(self, job_id: str, first: int, stop: int) -> AsyncIterator[list[str]]:
        parts = self._store.parts(job_id, first, stop)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield await asyncio.to_thread(unpack, part, first, stop)

    async def _make_room(self, job: JobRecord) -> None:
        if await self._run(self._store.count_open, job.client) >= self._settings.max_open:
            detail = f"found {self._settings.max_open} jobs that have not ended, expected fewer of one client"
            raise Problem("busy-client", detail, headers=retry_after(60))
        limit = self._settings.max_stored_bytes
        if job.stored_bytes > limit:  # which no wait would change
            name = "ENFLOW_JOBS__MAX_STORED_BYTES"
            raise Problem("invalid", f"found a request of {job.stored_bytes} bytes, expected at most {limit} ({name})")
        if not await self._run(self._store.make_room, limit - job.stored_bytes):
            detail = f"the stored jobs and this request have more than {limit} bytes, the limit"
            raise Problem("unavailable", detail, headers=retry_after(600))

    async def _find(self, job_id: str, client: str) -> JobRecord:
        job = await self._run(self._store.get, job_id)
        if job is None or (self._private and job.client != client):
            raise Problem("not-found", "found no job with this id; a job is removed some days after its end")
        return job

    async def _shown(self, job: JobRecord) -> JobOut:
        return self._document(job, await self._run(self._store.unfinished) if job.open else [])

    def _document(self, job: JobRecord, unfinished: Sequence[JobRecord]) -> JobOut:
        return JobOut(
            id=job.id,
            kind=job.kind,
            state=job.state,
            model=ModelOut(name=job.model, sha256=job.sha256),
            seed=job.seed,
            n_molecules=job.size,
            done=job.done,
            failed=job.failed,
            tried=job.tried,
            rate=round(job.done / job.seconds, 4) if job.seconds else None,
            time_left_s=round(time_left(job, unfinished), 1) if job.open else None,
            created=_time(job.created),
            ended=_time(job.ended) if job.ended else None,
            expires=_time(job.ended + DAY_S * self._settings.keep_days) if job.ended else None,
            detail=job.detail,
            results=f"/jobs/{job.id}/results",
        )

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a call of the store, in a thread.

        Raises:
            Problem: unavailable.
        """
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except StoreError as error:
            raise Problem("unavailable", str(error), headers=retry_after(10)) from error


def time_left(job: JobRecord, unfinished: Sequence[JobRecord]) -> float:
    """Return the seconds until a job ends.

    The earlier jobs of its client come first. Clients take turns: a job without a rate of its own gets one part of the
    device for each client.
    """
    before = [each for each in unfinished if each.client == job.client and each.created < job.created]
    own = sum(each.remaining_s for each in before) + job.remaining_s
    clients = len({each.client for each in unfinished} | {job.client})
    return own if job.done else min(own * clients, own + sum(each.remaining_s for each in unfinished))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
