"""The routes of jobs: durable batches of the requests that compute."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import StreamingResponse

from enflow.service.api.auth import API_KEY, BEARER
from enflow.service.api.openapi import JOB_RESULTS, PROBLEMS, json_body
from enflow.service.api.routes import NO_OPTIONS, Accept
from enflow.service.api.uploads import check_query, read_json
from enflow.service.handlers.jobs import JobsHandler
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.problems import Problem, retry_after
from enflow.service.rendering.encoders import format_headers, negotiate
from enflow.service.schemas.jobs import JobOut, JobRequest, JobResultsOut, JobsOut, ResultsRange
from enflow.service.settings import RequestLimits


async def jobs_handler(request: Request) -> JobsHandler:
    """Return the handler of the jobs of the application.

    Raises:
        Problem: the database of the jobs could not be opened at the start.
    """
    handler: JobsHandler | None = request.app.state.jobs
    if handler is None:
        detail = "this service has no jobs: their database could not be opened at the start, and the log says why"
        raise Problem("unavailable", detail, headers=retry_after(600))
    return handler


Jobs = Annotated[JobsHandler, Depends(jobs_handler)]

jobs = APIRouter(prefix="/jobs", tags=["jobs"], responses=PROBLEMS, dependencies=[Depends(BEARER), Depends(API_KEY)])


@jobs.post("", name="add_job", status_code=202, openapi_extra=json_body(JobRequest))
async def add(request: Request, response: Response, handler: Jobs) -> JobOut:
    """Start a job: the body of /sample, /likelihood, /interpolate or /variations, with up to a million molecules."""
    registry: ModelRegistry = request.app.state.registry
    registry.admit()
    limits: RequestLimits = request.app.state.job_limits
    body = await read_json(request, JobRequest, limits)
    job = await handler.add(body, request.state.client)
    response.headers["Location"] = f"{_prefix(request)}/jobs/{job.id}"
    return _linked(job, request)


@jobs.get("", name="list_jobs", dependencies=NO_OPTIONS)
async def newest(request: Request, response: Response, handler: Jobs) -> JobsOut:
    """Return the newest jobs: with API keys those of the caller, else all."""
    response.headers["Cache-Control"] = "no-store"
    found = await handler.newest(request.state.client)
    return JobsOut(jobs=[_linked(job, request) for job in found.jobs])


@jobs.get("/{job_id}", name="job", dependencies=NO_OPTIONS)
async def show(job_id: str, request: Request, response: Response, handler: Jobs) -> JobOut:
    """Return the state of a job: how much is done, the rate, and the time left."""
    response.headers["Cache-Control"] = "no-store"
    return _linked(await handler.show(job_id, request.state.client), request)


@jobs.delete("/{job_id}", name="delete_job", dependencies=NO_OPTIONS)
async def delete(job_id: str, request: Request, handler: Jobs) -> JobOut:
    """Cancel a job that has not ended, whose results so far stay; or remove one that has ended, with its results."""
    return _linked(await handler.delete(job_id, request.state.client), request)


@jobs.get("/{job_id}/results", name="job_results", response_model=JobResultsOut, responses=JOB_RESULTS)
async def results(
    job_id: str,
    request: Request,
    handler: Jobs,
    query: Annotated[ResultsRange, Query()],
    accept: Accept,
) -> Response:
    """Return the results of some molecules, also while the job runs; `Link: rel="next"` has the place of the rest."""
    check_query(request)
    client = request.state.client
    media = negotiate(accept, await handler.formats(job_id, client))
    found = await handler.results(job_id, client, (query.first, query.count), media)
    headers = format_headers(media[0])
    if found.more:
        length = f"&count={query.count}" if query.count else ""
        headers["Link"] = f'<{_prefix(request)}/jobs/{job_id}/results?first={found.next}{length}>; rel="next"'
    return StreamingResponse(await _begun(found.body), headers=headers)


def _prefix(request: Request) -> str:
    """Return the path prefix of a proxy: a client resolves a link against the address that it asked."""
    return str(request.scope.get("root_path", ""))


def _linked(job: JobOut, request: Request) -> JobOut:
    return job.model_copy(update={"results": f"{_prefix(request)}{job.results}"})


async def _begun(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return a body whose first piece is computed, so that its error is an answer and not the end of a stream."""
    first = await anext(body, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in body:
            yield piece

    return pieces()
