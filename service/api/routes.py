"""The HTTP routes: each reads a request, chooses a model, and runs one handler."""

import math
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError
from enflow.service.api.auth import API_KEY, BEARER
from enflow.service.api.event_stream import EventStream
from enflow.service.api.openapi import MOLECULES, PROBLEMS, SCORES, Responses, json_body, structures_body
from enflow.service.api.uploads import StructureRequest, read_json, read_structures, wait_for_disconnect
from enflow.service.handlers.context import Caller, Emit, HandlerContext, discard, random_seed, run_cancellable
from enflow.service.handlers.fragments import read_fragment
from enflow.service.handlers.latent_walk import LatentWalkHandler
from enflow.service.handlers.likelihood import LikelihoodHandler
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.sampling import SamplingHandler, sampling_seconds
from enflow.service.handlers.served_model import ServedModel
from enflow.service.handlers.variations import VariationsHandler
from enflow.service.media_types import ESTIMATE, STREAMS
from enflow.service.problems import Problem, retry_after
from enflow.service.rendering.encoders import SCORE_FORMATS, Answer, encode_answer, format_headers, negotiate
from enflow.service.schemas.requests import (
    Document,
    InterpolateOptions,
    InterpolateRequest,
    LikelihoodOptions,
    LikelihoodRequest,
    RequestOptions,
    SampleRequest,
    VariationsOptions,
    VariationsRequest,
)
from enflow.service.schemas.responses import (
    LikelihoodResponse,
    SampleResponse,
    VariationsResponse,
    WalkResponse,
)
from enflow.service.schemas.service_state import HealthOut, LimitsOut, ModelsOut, QueueOut
from enflow.service.telemetry import CONTENT_TYPE


async def accept_header(accept: Annotated[list[str] | None, Header(include_in_schema=False)] = None) -> str | None:
    """Return all Accept lines of a request as one list; None where there is none."""
    return None if accept is None else ", ".join(accept)


Accept = Annotated[str | None, Depends(accept_header)]


@dataclass(frozen=True)
class Negotiation:
    """A FastAPI dependency: the Accept header of a request, refused before the body is read where no offer fits."""

    offers: Sequence[str]

    async def __call__(self, accept: Accept) -> str | None:
        """Return the header.

        Raises:
            Problem: not-acceptable.
        """
        negotiate(accept, self.offers)
        return accept


async def model_registry(request: Request) -> ModelRegistry:
    """Return the models of the application."""
    registry: ModelRegistry = request.app.state.registry
    return registry


async def open_registry(request: Request) -> ModelRegistry:
    """Return the models of the application while it takes new requests.

    Raises:
        Problem: unavailable.
    """
    registry = await model_registry(request)
    registry.admit()
    return registry


LONG_S = 30.0
"""The estimated seconds above which the answer to /sample refers to jobs."""


async def no_cache(response: Response) -> None:
    """Tell caches to ask again."""
    response.headers["Cache-Control"] = "no-cache"


async def no_options(query: Annotated[Document, Query()]) -> None:
    """Refuse every option of a path that has none."""


NO_OPTIONS = [Depends(no_options)]
Registry = Annotated[ModelRegistry, Depends(model_registry)]
OpenRegistry = Annotated[ModelRegistry, Depends(open_registry)]
MoleculeAccept = Annotated[str | None, Depends(Negotiation(ServedModel.formats))]
ScoreAccept = Annotated[str | None, Depends(Negotiation(SCORE_FORMATS))]
W = TypeVar("W", InterpolateOptions, VariationsOptions)
Structures = Sequence[Molecule | EnflowError]
Run = Callable[[Emit], Coroutine[Any, Any, Answer]]
Route = TypeVar("Route", bound=Callable[..., Any])

compute = APIRouter(responses=PROBLEMS, dependencies=[Depends(BEARER), Depends(API_KEY)])
status = APIRouter(responses=PROBLEMS, dependencies=[Depends(no_cache)])


def _post_structures(
    path: str, schema: type[RequestOptions], options: type[RequestOptions], answer: type[BaseModel], formats: Responses
) -> Callable[[Route], Route]:
    """Register a route whose body is structures: JSON by a schema, or files with options beside them."""
    extra = structures_body(schema, options)
    return compute.post(path, tags=["structures"], response_model=answer, responses=formats, openapi_extra=extra)


@compute.post(
    "/sample",
    tags=["molecules"],
    response_model=SampleResponse,
    responses=MOLECULES,
    openapi_extra=json_body(SampleRequest),
)
async def sample(request: Request, registry: OpenRegistry, accept: MoleculeAccept) -> Response:
    """Generate molecules, each fixed by (seed, index)."""
    options = await read_json(request, SampleRequest, registry.limits)
    served, options = registry.sampling(options)
    seed, caller = _seed(options), _caller(request, options, served)

    async def run(emit: Emit) -> Answer:
        fragment = await read_fragment(served, options) if options.fragment else None
        return await SamplingHandler(served, options, HandlerContext(seed, caller, emit), fragment=fragment).run()

    with _estimate(request, served, options) as headers:
        response = await _respond(request, accept, served, caller, run)
        response.headers.update(headers)
        return response


@_post_structures("/likelihood", LikelihoodRequest, LikelihoodOptions, LikelihoodResponse, SCORES)
async def score(
    request: Request, registry: OpenRegistry, accept: ScoreAccept, query: Annotated[LikelihoodOptions, Query()]
) -> Response:
    """Score structures: a bound of the negative log-likelihood with its parts and error; one entry each, in order."""
    body = await read_structures(request, LikelihoodRequest, query, registry.limits)
    served = registry.scoring(body.options.model)
    seed, caller = _seed(body.options), _caller(request, body.options, served)

    async def run(emit: Emit) -> Answer:
        parsed = await served.parse(body.uploads, whole=body.whole)
        context = HandlerContext(seed, caller, emit)
        return await LikelihoodHandler(served, body.options, parsed.structures, context, files=parsed.files).run()

    return await _respond(request, accept, served, caller, run, SCORE_FORMATS)


@_post_structures("/interpolate", InterpolateRequest, InterpolateOptions, WalkResponse, MOLECULES)
async def interpolate(
    request: Request, registry: OpenRegistry, accept: MoleculeAccept, query: Annotated[InterpolateOptions, Query()]
) -> Response:
    """Walk through the latent space from one structure to another of the same number of atoms."""
    body = await read_structures(request, InterpolateRequest, query, registry.limits)
    return await _from_structures(request, accept, LatentWalkHandler, body, registry.walking(body.options.model))


@_post_structures("/variations", VariationsRequest, VariationsOptions, VariationsResponse, MOLECULES)
async def variations(
    request: Request, registry: OpenRegistry, accept: MoleculeAccept, query: Annotated[VariationsOptions, Query()]
) -> Response:
    """Generate molecules near one structure: add noise to it, and remove it by the flow."""
    body = await read_structures(request, VariationsRequest, query, registry.limits)
    return await _from_structures(request, accept, VariationsHandler, body, registry.varying(body.options.model))


@status.head("/models", include_in_schema=False)
@status.get("/models", tags=["service"], dependencies=NO_OPTIONS)
async def models(registry: Registry) -> ModelsOut:
    """Return the cards of the loaded weights: their training data, their configuration and their quality."""
    return ModelsOut(models=[card.summary for card in registry.cards])


@status.head("/limits", include_in_schema=False)
@status.get("/limits", tags=["service"], dependencies=NO_OPTIONS)
async def limits(registry: Registry) -> LimitsOut:
    """Return the limits of one request."""
    by_model = {served.card.name: served.limits.max_atoms for served in registry}
    kinds = {card.name: card.kind for card in registry.cards}
    return LimitsOut(**registry.limits.model_dump(), max_atoms_by_model=by_model, kind_by_model=kinds)


@status.head("/health/live", include_in_schema=False)
@status.get("/health/live", tags=["service"])
async def live(registry: Registry) -> HealthOut:
    """Return 200 while the loop of every engine turns; restart the service where it answers 503."""
    return _health(registry, all(served.client.health().live for served in registry))


@status.head("/health/ready", include_in_schema=False)
@status.get("/health/ready", tags=["service"])
async def ready(registry: Registry) -> HealthOut:
    """Return 200 while requests are taken and the first model's device has lately computed a known answer.

    Another model whose engine fails refuses only its own requests.
    """
    return _health(registry, registry.first.client.health().ready and not registry.draining)


@status.head("/metrics", include_in_schema=False)
@status.get("/metrics", include_in_schema=False)
async def metrics(registry: Registry) -> Response:
    """Return the metrics in the text format of Prometheus."""
    return Response(registry.first.telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE})


async def _from_structures(
    request: Request,
    accept: str | None,
    handler: Callable[[ServedModel, W, Structures, HandlerContext], LatentWalkHandler | SamplingHandler],
    body: StructureRequest[W],
    served: ServedModel,
) -> Response:
    seed, caller = _seed(body.options), _caller(request, body.options, served)

    async def run(emit: Emit) -> Answer:
        parsed = await served.parse(body.uploads, whole=body.whole)
        return await handler(served, body.options, parsed.structures, HandlerContext(seed, caller, emit)).run()

    return await _respond(request, accept, served, caller, run)


@contextmanager
def _estimate(request: Request, served: ServedModel, options: SampleRequest) -> Iterator[Mapping[str, str]]:
    """Give the headers of a request that takes long: the estimated seconds, and the place of jobs.

    A problem gets them too: a request that reaches its deadline would have been a job.
    """
    seconds = served.client.stats().queue_seconds + len(options.sizes) * sampling_seconds(served, options)
    link = f'<{request.scope.get("root_path", "")}/jobs>; rel="alternate"'
    headers = {ESTIMATE: f"{seconds:.0f}", "Link": link} if seconds > LONG_S else {}
    try:
        yield headers
    except Problem as problem:
        problem.headers = {**headers, **problem.headers}
        raise


async def _respond(
    request: Request,
    accept: str | None,
    served: ServedModel,
    caller: Caller,
    run: Run,
    formats: Sequence[str] | None = None,
) -> Response:
    """Run a handler and encode its answer; stop it at the deadline, at a disconnect, and when the service stops."""
    media_type, parameters = negotiate(accept, formats or served.formats)
    if media_type in STREAMS:
        return EventStream(media_type, run, served, caller.deadline)

    async def encoded() -> bytes:
        return await encode_answer(await run(discard), media_type, parameters, served.chemistry, served.formats)

    disconnect = wait_for_disconnect(request.receive)
    body = await run_cancellable(encoded(), disconnect, served.stopping, caller.deadline)
    return Response(body, headers=format_headers(media_type))


def _caller(request: Request, options: RequestOptions, served: ServedModel) -> Caller:
    state, seconds = request.state, options.deadline_s or served.limits.max_deadline_s
    return Caller(state.client, state.request_id, state.arrived, state.arrived + seconds)


def _seed(options: RequestOptions) -> int:
    return random_seed() if options.seed is None else options.seed


def _health(registry: ModelRegistry, ok: bool) -> HealthOut:
    health, stats = registry.first.client.health(), [served.client.stats() for served in registry]
    reason = "the service is stopping" if registry.draining else health.reason
    if not ok:
        raise Problem("unavailable", reason, headers=retry_after(5))
    return HealthOut(
        status="ok",
        reason=reason,
        step_age_s=health.step_age if math.isfinite(health.step_age) else None,
        queue=QueueOut(waiting=sum(each.waiting for each in stats), running=sum(each.running for each in stats)),
        device=stats[0].device,
        models={served.card.name: served.client.health().reason or "ready" for served in registry},
    )
