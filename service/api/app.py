"""The application: routes, their formats, and the one table of errors."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from enflow.model.errors import ConfigError, EnflowError
from enflow.service.schemas import responses, requests
from enflow.service.api import static_pages
from enflow.service.api.auth import Access, read_keys
from enflow.service.model_card import Card, read_card
from enflow.service.chemistry.rdkit_pool import Chemistry
from enflow.service.api.openapi import OVERVIEW, complete, gives, takes
from enflow.service.handlers.served_model import Answer, Caller, Desk, Emit, drawn_seed, silent, unless_stopped
from enflow.service.handlers.sampling import Generation
from enflow.service.api.uploads import read_json, read_structures
from enflow.service.client.lazy_client import further_clients
from enflow.service.api.middleware import BoundedBody, Gate, Surroundings
from enflow.service.api.negotiation import JSON, STREAMS, negotiate
from enflow.service.handlers.served_particles import ParticleDesk
from enflow.service.problems import MEDIA_TYPE, Problem, from_exception, from_status, retry_after
from enflow.service.handlers.model_registry import Reception
from enflow.service.rendering.encoders import FILE_NAMES, SCORE_FORMATS, dumps, render
from enflow.service.handlers.likelihood import Scoring
from enflow.service.settings import Limits, Settings
from enflow.service.api.event_stream import EventStream, hang_up
from enflow.service.telemetry import CONTENT_TYPE, Telemetry, Watched, tell_health
from enflow.service.handlers.latent_walk import Walk
from enflow.service.client.process_client import EngineClient, engine_client

VERSION = "0.1.0"

Respondent = Response | EventStream
Endpoint = Callable[[Request], Awaitable[Respondent]]


def create_app(
    settings: Settings | None = None,
    client: EngineClient | None = None,
    further: Mapping[Path, EngineClient] | None = None,
) -> FastAPI:
    """The application around the engines of all models.

    Args:
        client: of the first model; None starts its engine in a process of its own.
        further: of the others, by the folders of their weights; None = processes of their own.

    Raises:
        WeightsError: weights have no usable card.
        ConfigError: the file of API keys cannot be used, or two models have one name.
    """
    settings = settings or Settings()
    cards = _cards(settings)
    card = cards[settings.weights]
    limits = settings.limits.model_copy(update={"max_atoms": min(settings.limits.max_atoms, card.vocabulary.max_atoms)})
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engines = {settings.weights: client or engine_client(settings), **(further or further_clients(settings))}
        chemistry = Chemistry(settings.chemistry, limits, telemetry)
        app.state.reception = reception = Reception({})
        for place, each in cards.items():
            kind = ParticleDesk if each.system else Desk
            desk = kind(engines[place], chemistry, each, limits, telemetry, reception.stopping)
            reception.desks[each.name] = desk
        telemetry.watch({desk.card.name: Watched(desk.client.stats, desk.card.sha256) for desk in reception})
        try:
            await asyncio.gather(chemistry.start(), *(desk.client.start() for desk in reception))
            watching = asyncio.create_task(tell_health({desk.card.name: desk.client.health for desk in reception}))
            yield
            watching.cancel()
        finally:
            await asyncio.gather(*(desk.client.close() for desk in reception))
            await asyncio.to_thread(chemistry.close)

    app = FastAPI(
        title="Enflow",
        version=VERSION,
        description=OVERVIEW,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        middleware=_layers(settings, limits, telemetry),
        exception_handlers=dict.fromkeys((Problem, HTTPException, EnflowError, ValidationError), _answer_error),
    )
    _add_routes(app)
    plain = get_openapi(title=app.title, version=VERSION, description=OVERVIEW, routes=app.routes)
    described = _json(complete(plain, limits, list(cards.values())))

    async def openapi(_request: Request) -> Response:
        return described

    for path, endpoint in {**static_pages.PAGES, "/openapi.json": openapi, "/metrics": metrics}.items():
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(endpoint)
    app.routes.extend(static_pages.mounts())
    return app


def _cards(settings: Settings) -> dict[Path, Card]:
    """Of all models by their folders, the first one first."""
    cards = {place: read_card(place) for place in (settings.weights, *settings.further)}
    names = Counter(card.name for card in cards.values())
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"found two models of the name {twice[0]}, expected each once: see card.json of their folders"
        )
    return cards


def _layers(settings: Settings, limits: Limits, telemetry: Telemetry) -> list[Middleware]:
    """Outermost first."""
    access = Access(read_keys(settings.api_keys_file), settings.requests_per_minute)
    layers = [Middleware(Surroundings, telemetry=telemetry)]
    if settings.cors_origins:
        headers = ["Accept", "Authorization", "Content-Type", "X-API-Key", "X-Request-ID"]
        origins = list(settings.cors_origins)
        layers.append(
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
        )
    return [
        *layers,
        Middleware(Gate, access=access, most=settings.max_open_requests),
        Middleware(BoundedBody, limits=limits),
    ]


def _add_routes(app: FastAPI) -> None:
    molecules, walk = gives(responses.SampleResponse, Desk.formats), gives(responses.WalkResponse, Desk.formats)
    scores = gives(responses.LikelihoodResponse, SCORE_FORMATS)
    posts: list[tuple[str, Endpoint, dict[str, Any], dict[int | str, Any]]] = [
        ("/sample", sample, takes(requests.SampleRequest), molecules),
        ("/likelihood", likelihood, takes(requests.LikelihoodRequest, requests.LikelihoodOptions), scores),
        ("/interpolate", interpolate, takes(requests.InterpolateRequest, requests.InterpolateOptions), walk),
        ("/variations", variations, takes(requests.VariationsRequest, requests.VariationsOptions), walk),
    ]
    for path, endpoint, body, described in posts:
        app.post(path, response_model=None, openapi_extra=body, responses=described)(endpoint)
    gets: list[tuple[str, Endpoint, dict[int | str, Any]]] = [
        ("/models", models, gives(responses.ModelsOut)),
        ("/limits", limits_in_force, gives(responses.LimitsOut)),
        ("/health/live", live, gives(responses.HealthOut)),
        ("/health/ready", ready, gives(responses.HealthOut)),
    ]
    for path, endpoint, described in gets:
        app.get(path, response_model=None, responses=described)(endpoint)
        app.head(path, include_in_schema=False)(endpoint)


async def sample(request: Request) -> Respondent:
    """Generate molecules, each fixed by (seed, index)."""
    reception = _reception(request)
    asked = await read_json(request, requests.SampleRequest, reception.limits)
    seed, caller = _seed(asked), _caller(request, asked)
    desk, wanted = reception.sampling(asked)
    generation = partial(Generation, desk, wanted, seed, caller)
    return await _respond(request, desk, caller, desk.formats, lambda emit: generation(emit).run())


async def likelihood(request: Request) -> Respondent:
    """Score structures: a bound of the negative log-likelihood with its parts and error; one entry each, in order."""
    found = await read_structures(request, requests.LikelihoodRequest, requests.LikelihoodOptions, _reception(request))
    seed, caller = _seed(found.options), _caller(request, found.options)
    scoring = partial(Scoring, found.desk, found.options, found.structures, seed, caller)
    return await _respond(request, found.desk, caller, SCORE_FORMATS, lambda emit: scoring(emit).run())


async def interpolate(request: Request) -> Respondent:
    """Walk from one structure to another of the same number of atoms through the latent space."""
    return await _walk(request, requests.InterpolateRequest, requests.InterpolateOptions)


async def variations(request: Request) -> Respondent:
    """Molecules around one structure in the latent space."""
    return await _walk(request, requests.VariationsRequest, requests.VariationsOptions)


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
    whole: type[requests.InterpolateRequest | requests.VariationsRequest],
    options: type[requests.InterpolateOptions | requests.VariationsOptions],
) -> Respondent:
    reception = _reception(request)
    found = await read_structures(request, whole, options, reception)
    seed, caller, desk = _seed(found.options), _caller(request, found.options), reception.walking(found.options.model)
    walk = partial(Walk, desk, found.options, found.structures, seed, caller)
    return await _respond(request, desk, caller, desk.formats, lambda emit: walk(emit).run())


async def _respond(
    request: Request,
    desk: Desk,
    caller: Caller,
    formats: Sequence[str],
    produce: Callable[[Emit], Coroutine[Any, Any, Answer]],
) -> Respondent:
    _reception(request).admit()
    media_type, parameters = negotiate(request.headers.get("accept"), formats)
    if media_type in STREAMS:
        return EventStream(media_type, produce, desk, caller.deadline)

    async def complete() -> bytes:
        return await render(await produce(silent), media_type, parameters, desk)

    body = await unless_stopped(complete(), hang_up(request.receive), desk.stopping, caller.deadline)
    headers = {"Vary": "Accept", "Cache-Control": "no-store", "Content-Type": _typed(media_type)}
    if media_type in FILE_NAMES:
        headers["Content-Disposition"] = f'attachment; filename="{FILE_NAMES[media_type]}"'
    return Response(body, headers=headers)


def _typed(media_type: str) -> str:
    return media_type if media_type.startswith("application/") else f"{media_type}; charset=utf-8"


def _reception(request: Request) -> Reception:
    reception: Reception = request.app.state.reception
    return reception


def _caller(request: Request, asked: requests.Work) -> Caller:
    seconds, arrived = asked.deadline_s or _reception(request).limits.max_deadline_s, request.state.arrived
    return Caller(request.state.client, request.state.request_id, arrived, arrived + seconds)


def _seed(asked: requests.Work) -> int:
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


async def _answer_error(request: Request, error: Exception) -> Response:
    problem = from_status(error.status_code) if isinstance(error, HTTPException) else from_exception(error)
    headers = {**(getattr(error, "headers", None) or {}), "Content-Type": MEDIA_TYPE, "Vary": "Accept"}
    return Response(problem.body(request.state.request_id), problem.kind.status, headers=headers)
