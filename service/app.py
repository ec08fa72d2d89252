"""The application: routes, their formats, and the one table of errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from model.errors import EnflowError
from service import answers, pages, schemas
from service.access import Access, read_keys
from service.card import read_card
from service.chemistry import Chemistry
from service.description import OVERVIEW, complete, gives, takes
from service.desk import Answer, Caller, Desk, Emit, drawn_seed, silent, unless_stopped
from service.generation import Generation
from service.intake import read_json, read_structures
from service.middleware import BoundedBody, Gate, Surroundings
from service.negotiation import JSON, STREAMS, negotiate
from service.problems import MEDIA_TYPE, Problem, from_exception, from_status, retry_after
from service.rendering import FILE_NAMES, MOLECULE_FORMATS, SCORE_FORMATS, dumps, render
from service.scoring import Scoring
from service.settings import Limits, Settings
from service.streaming import EventStream, hang_up
from service.telemetry import CONTENT_TYPE, Telemetry, tell_health
from service.walking import Walk
from service.worker import EngineClient, engine_client

VERSION = "0.1.0"

Respondent = Response | EventStream
Endpoint = Callable[[Request], Awaitable[Respondent]]


def create_app(
    settings: Settings | None = None, client: EngineClient | None = None, formulas: EngineClient | None = None
) -> FastAPI:
    """The application around an engine, and one for formulas where there are weights for it.

    Without a client it starts each in a process of its own.

    Raises:
        WeightsError: the weights have no usable card.
        ConfigError: the file of API keys cannot be used.
    """
    settings = settings or Settings()
    card = read_card(settings.weights)
    limits = settings.limits.model_copy(update={"max_atoms": min(settings.limits.max_atoms, card.vocabulary.max_atoms)})
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = client or engine_client(settings)
        chemistry = Chemistry(settings.chemistry, limits, telemetry)
        app.state.desk = desk = Desk(engine, chemistry, card, limits, telemetry)
        engines = [engine]
        if settings.formula_place:
            engines.append(formulas or engine_client(settings, weights=settings.formula_place))
            formula_card = read_card(settings.formula_place)
            desk.formulas = Desk(engines[-1], chemistry, formula_card, limits, telemetry, desk.stopping)
        telemetry.watch(engine.stats, {"name": card.name, "sha256": card.sha256})
        try:
            await asyncio.gather(chemistry.start(), *(each.start() for each in engines))
            watching = asyncio.create_task(tell_health(engine.health))
            yield
            watching.cancel()
        finally:
            await asyncio.gather(*(each.close() for each in engines))
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
    described = _json(complete(plain, limits, formulas=bool(settings.formula_place or card.takes_formulas)))

    async def openapi(_request: Request) -> Response:
        return described

    for path, endpoint in {**pages.PAGES, "/openapi.json": openapi, "/metrics": metrics}.items():
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(endpoint)
    app.routes.extend(pages.mounts())
    return app


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
    molecules, walk = gives(answers.SampleResponse, MOLECULE_FORMATS), gives(answers.WalkResponse, MOLECULE_FORMATS)
    scores = gives(answers.LikelihoodResponse, SCORE_FORMATS)
    posts: list[tuple[str, Endpoint, dict[str, Any], dict[int | str, Any]]] = [
        ("/sample", sample, takes(schemas.SampleRequest), molecules),
        ("/likelihood", likelihood, takes(schemas.LikelihoodRequest, schemas.LikelihoodOptions), scores),
        ("/interpolate", interpolate, takes(schemas.InterpolateRequest, schemas.InterpolateOptions), walk),
        ("/variations", variations, takes(schemas.VariationsRequest, schemas.VariationsOptions), walk),
    ]
    for path, endpoint, body, described in posts:
        app.post(path, response_model=None, openapi_extra=body, responses=described)(endpoint)
    gets: list[tuple[str, Endpoint, dict[int | str, Any]]] = [
        ("/models", models, gives(answers.ModelsOut)),
        ("/limits", limits_in_force, gives(answers.LimitsOut)),
        ("/health/live", live, gives(answers.HealthOut)),
        ("/health/ready", ready, gives(answers.HealthOut)),
    ]
    for path, endpoint, described in gets:
        app.get(path, response_model=None, responses=described)(endpoint)
        app.head(path, include_in_schema=False)(endpoint)


async def sample(request: Request) -> Respondent:
    """Generate molecules, each fixed by (seed, index)."""
    desk = _desk(request)
    asked = await read_json(request, schemas.SampleRequest, desk.limits)
    seed, caller = _seed(asked), _caller(request, asked)
    if asked.formula is not None:
        desk, n_atoms = desk.for_formula(asked.formula)
        asked = asked.model_copy(update={"n_atoms": n_atoms})
    return await _respond(
        request, caller, MOLECULE_FORMATS, lambda emit: Generation(desk, asked, seed, caller, emit).run()
    )


async def likelihood(request: Request) -> Respondent:
    """Score structures: a bound of the negative log-likelihood with its parts and error; one entry each, in order."""
    desk = _desk(request)
    found = await read_structures(request, schemas.LikelihoodRequest, schemas.LikelihoodOptions, desk)
    seed, caller = _seed(found.options), _caller(request, found.options)
    scoring = partial(Scoring, desk, found.options, found.structures, seed, caller)
    return await _respond(request, caller, SCORE_FORMATS, lambda emit: scoring(emit).run())


async def interpolate(request: Request) -> Respondent:
    """Walk from one structure to another of the same number of atoms through the latent space."""
    return await _walk(request, schemas.InterpolateRequest, schemas.InterpolateOptions)


async def variations(request: Request) -> Respondent:
    """Molecules around one structure in the latent space."""
    return await _walk(request, schemas.VariationsRequest, schemas.VariationsOptions)


async def models(request: Request) -> Response:
    """The cards of the loaded weights: what they were trained on, and how good they are."""
    return _json({"models": [dict(card.document) for card in _desk(request).cards]})


async def limits_in_force(request: Request) -> Response:
    """What one request may ask for."""
    return _json(_desk(request).limits.model_dump(mode="json"))


async def live(request: Request) -> Response:
    """Whether the engine's loop turns: restart the service where it does not."""
    health = _desk(request).client.health()
    return _health(request, health.live)


async def ready(request: Request) -> Response:
    """Whether the device computed a known answer recently, and requests are taken."""
    desk = _desk(request)
    return _health(request, desk.client.health().ready and not desk.draining)


async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(_desk(request).telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE})


async def _walk(
    request: Request,
    whole: type[schemas.InterpolateRequest | schemas.VariationsRequest],
    options: type[schemas.InterpolateOptions | schemas.VariationsOptions],
) -> Respondent:
    desk = _desk(request)
    found = await read_structures(request, whole, options, desk)
    seed, caller = _seed(found.options), _caller(request, found.options)
    walk = partial(Walk, desk, found.options, found.structures, seed, caller)
    return await _respond(request, caller, MOLECULE_FORMATS, lambda emit: walk(emit).run())


async def _respond(
    request: Request, caller: Caller, formats: Sequence[str], produce: Callable[[Emit], Coroutine[Any, Any, Answer]]
) -> Respondent:
    desk = _desk(request)
    desk.admit()
    media_type, parameters = negotiate(request.headers.get("accept"), formats)
    if media_type in STREAMS:
        return EventStream(media_type, produce, desk, caller.deadline)

    async def complete() -> bytes:
        return await render(await produce(silent), media_type, parameters, desk.chemistry)

    body = await unless_stopped(complete(), hang_up(request.receive), desk.stopping, caller.deadline)
    headers = {"Vary": "Accept", "Cache-Control": "no-store", "Content-Type": _typed(media_type)}
    if media_type in FILE_NAMES:
        headers["Content-Disposition"] = f'attachment; filename="{FILE_NAMES[media_type]}"'
    return Response(body, headers=headers)


def _typed(media_type: str) -> str:
    return media_type if media_type.startswith("application/") else f"{media_type}; charset=utf-8"


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _caller(request: Request, asked: schemas.Work) -> Caller:
    seconds, arrived = asked.deadline_s or _desk(request).limits.max_deadline_s, request.state.arrived
    return Caller(request.state.client, request.state.request_id, arrived, arrived + seconds)


def _seed(asked: schemas.Work) -> int:
    return drawn_seed() if asked.seed is None else asked.seed


def _health(request: Request, ok: bool) -> Response:
    desk = _desk(request)
    health, stats = desk.client.health(), desk.client.stats()
    reason = "the service is stopping" if desk.draining else health.reason
    if not ok:
        raise Problem("unavailable", reason, headers=retry_after(5))
    queue = {"waiting": stats.waiting, "running": stats.running}
    return _json(
        {"status": "ok", "reason": reason, "step_age_s": health.step_age, "queue": queue, "device": stats.device}
    )


def _json(document: Any) -> Response:
    return Response(dumps(document), media_type=JSON, headers={"Cache-Control": "no-cache"})


async def _answer_error(request: Request, error: Exception) -> Response:
    problem = from_status(error.status_code) if isinstance(error, HTTPException) else from_exception(error)
    headers = {**(getattr(error, "headers", None) or {}), "Content-Type": MEDIA_TYPE, "Vary": "Accept"}
    return Response(problem.body(request.state.request_id), problem.kind.status, headers=headers)
