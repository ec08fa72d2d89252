"""The HTTP routes: each reads a request, chooses a model, runs one handler."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from enflow.service.api.event_stream import EventStream, hang_up
from enflow.service.api.negotiation import negotiate
from enflow.service.api.openapi import gives, takes
from enflow.service.api.uploads import read_json, read_structures
from enflow.service.handlers.cancellation import unless_stopped
from enflow.service.handlers.context import Caller, Emit, drawn_seed, silent
from enflow.service.handlers.latent_walk import LatentWalkHandler
from enflow.service.handlers.likelihood import LikelihoodHandler
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.sampling import SamplingHandler
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import JSON, STREAMS
from enflow.service.problems import Problem, retry_after
from enflow.service.rendering.answer import Answer
from enflow.service.rendering.encoders import FILE_NAMES, SCORE_FORMATS, dumps, encode_answer
from enflow.service.schemas.requests import (
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
    HealthOut,
    LikelihoodResponse,
    LimitsOut,
    ModelsOut,
    SampleResponse,
    WalkResponse,
)
from enflow.service.telemetry import CONTENT_TYPE

Respondent = Response | EventStream


Endpoint = Callable[[Request], Awaitable[Respondent]]


def _add_routes(app: FastAPI) -> None:
    molecules, walk = gives(SampleResponse, ServedModel.formats), gives(WalkResponse, ServedModel.formats)
    scores = gives(LikelihoodResponse, SCORE_FORMATS)
    posts: list[tuple[str, Endpoint, dict[str, Any], dict[int | str, Any]]] = [
        ("/sample", sample, takes(SampleRequest), molecules),
        ("/likelihood", likelihood, takes(LikelihoodRequest, LikelihoodOptions), scores),
        ("/interpolate", interpolate, takes(InterpolateRequest, InterpolateOptions), walk),
        ("/variations", variations, takes(VariationsRequest, VariationsOptions), walk),
    ]
    for path, endpoint, body, described in posts:
        app.post(path, response_model=None, openapi_extra=body, responses=described)(endpoint)
    gets: list[tuple[str, Endpoint, dict[int | str, Any]]] = [
        ("/models", models, gives(ModelsOut)),
        ("/limits", limits_in_force, gives(LimitsOut)),
        ("/health/live", live, gives(HealthOut)),
        ("/health/ready", ready, gives(HealthOut)),
    ]
    for path, endpoint, described in gets:
        app.get(path, response_model=None, responses=described)(endpoint)
        app.head(path, include_in_schema=False)(endpoint)


async def sample(request: Request) -> Respondent:
    """Generate molecules, each fixed by (seed, index)."""
    reception = _reception(request)
    asked = await read_json(request, SampleRequest, reception.limits)
    seed, caller = _seed(asked), _caller(request, asked)
    desk, wanted = reception.sampling(asked)
    generation = partial(SamplingHandler, desk, wanted, seed, caller)
    return await _respond(request, desk, caller, desk.formats, lambda emit: generation(emit).run())


async def likelihood(request: Request) -> Respondent:
    """Score structures: a bound of the negative log-likelihood with its parts and error; one entry each, in order."""
    found = await read_structures(request, LikelihoodRequest, LikelihoodOptions, _reception(request))
    seed, caller = _seed(found.options), _caller(request, found.options)
    scoring = partial(LikelihoodHandler, found.desk, found.options, found.structures, seed, caller)
    return await _respond(request, found.desk, caller, SCORE_FORMATS, lambda emit: scoring(emit).run())


async def interpolate(request: Request) -> Respondent:
    """LatentWalkHandler from one structure to another of the same number of atoms through the latent space."""
    return await _walk(request, InterpolateRequest, InterpolateOptions)


async def variations(request: Request) -> Respondent:
    """Molecules around one structure in the latent space."""
    return await _walk(request, VariationsRequest, VariationsOptions)


async def models(request: Request) -> Response:
    """The cards of the loaded weights: what they were trained on, and how good they are."""
    return _json({"models": [card.summary for card in _reception(request).cards]})


async def limits_in_force(request: Request) -> Response:
    """What one request may ask for."""
    return _json(_reception(request).limits.model_dump(mode="json"))


async def live(request: Request) -> Response:
    """Whether the engines' loops turn: restart the service where one does not."""
    return _health(request, all(desk.client.health().live for desk in _reception(request)))


async def ready(request: Request) -> Response:
    """Whether the device computed a known answer recently with the first model, and requests are taken.

    Another model whose engine fails refuses its own requests alone.
    """
    reception = _reception(request)
    return _health(request, reception.first.client.health().ready and not reception.draining)


async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(_reception(request).first.telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE})


async def _walk(
    request: Request,
    whole: type[InterpolateRequest | VariationsRequest],
    options: type[InterpolateOptions | VariationsOptions],
) -> Respondent:
    reception = _reception(request)
    found = await read_structures(request, whole, options, reception)
    seed, caller, desk = _seed(found.options), _caller(request, found.options), reception.walking(found.options.model)
    walk = partial(LatentWalkHandler, desk, found.options, found.structures, seed, caller)
    return await _respond(request, desk, caller, desk.formats, lambda emit: walk(emit).run())


async def _respond(
    request: Request,
    desk: ServedModel,
    caller: Caller,
    formats: Sequence[str],
    produce: Callable[[Emit], Coroutine[Any, Any, Answer]],
) -> Respondent:
    _reception(request).admit()
    media_type, parameters = negotiate(request.headers.get("accept"), formats)
    if media_type in STREAMS:
        return EventStream(media_type, produce, desk, caller.deadline)

    async def complete() -> bytes:
        return await encode_answer(await produce(silent), media_type, parameters, desk.chemistry, desk.formats)

    body = await unless_stopped(complete(), hang_up(request.receive), desk.stopping, caller.deadline)
    headers = {"Vary": "Accept", "Cache-Control": "no-store", "Content-Type": _typed(media_type)}
    if media_type in FILE_NAMES:
        headers["Content-Disposition"] = f'attachment; filename="{FILE_NAMES[media_type]}"'
    return Response(body, headers=headers)


def _typed(media_type: str) -> str:
    return media_type if media_type.startswith("application/") else f"{media_type}; charset=utf-8"


def _reception(request: Request) -> ModelRegistry:
    reception: ModelRegistry = request.app.state.reception
    return reception


def _caller(request: Request, asked: RequestOptions) -> Caller:
    seconds, arrived = asked.deadline_s or _reception(request).limits.max_deadline_s, request.state.arrived
    return Caller(request.state.client, request.state.request_id, arrived, arrived + seconds)


def _seed(asked: RequestOptions) -> int:
    return drawn_seed() if asked.seed is None else asked.seed


def _health(request: Request, ok: bool) -> Response:
    reception = _reception(request)
    health, stats = reception.first.client.health(), [desk.client.stats() for desk in reception]
    reason = "the service is stopping" if reception.draining else health.reason
    if not ok:
        raise Problem("unavailable", reason, headers=retry_after(5))
    queue = {name: sum(getattr(each, name) for each in stats) for name in ("waiting", "running")}
    return _json(
        {
            "status": "ok",
            "reason": reason,
            "step_age_s": health.step_age,
            "queue": queue,
            "device": stats[0].device,
            "models": {desk.card.name: desk.client.health().reason or "ready" for desk in reception},
        }
    )


def _json(document: Any) -> Response:
    return Response(dumps(document), media_type=JSON, headers={"Cache-Control": "no-cache"})
