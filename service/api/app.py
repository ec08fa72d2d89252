"""The application: routes, their formats, and the one table of errors."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from enflow import __version__
from enflow.model.errors import ConfigError, EnflowError
from enflow.service.api import static_pages
from enflow.service.api.auth import ApiKeys, read_keys
from enflow.service.api.middleware import AdmissionMiddleware, BodyLimitMiddleware, RequestContextMiddleware
from enflow.service.api.openapi import OVERVIEW, complete
from enflow.service.api.routes import _add_routes, _json, metrics
from enflow.service.chemistry.rdkit_pool import RDKitPool
from enflow.service.client.base import EngineClient
from enflow.service.client.lazy_client import further_clients
from enflow.service.client.process_client import engine_client
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.served_model import ServedModel
from enflow.service.handlers.served_particles import ServedParticles
from enflow.service.model_card import ModelCard, read_card
from enflow.service.problems import MEDIA_TYPE, Problem, from_exception, from_status
from enflow.service.settings import RequestLimits, Settings
from enflow.service.telemetry import Telemetry, Watched, tell_health


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
        chemistry = RDKitPool(settings.chemistry, limits, telemetry)
        app.state.reception = reception = ModelRegistry({})
        for place, each in cards.items():
            kind = ServedParticles if each.system else ServedModel
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
        version=__version__,
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
    plain = get_openapi(title=app.title, version=__version__, description=OVERVIEW, routes=app.routes)
    described = _json(complete(plain, limits, list(cards.values())))

    async def openapi(_request: Request) -> Response:
        return described

    for path, endpoint in {**static_pages.PAGES, "/openapi.json": openapi, "/metrics": metrics}.items():
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(endpoint)
    app.routes.extend(static_pages.mounts())
    return app


def _cards(settings: Settings) -> dict[Path, ModelCard]:
    """Of all models by their folders, the first one first."""
    cards = {place: read_card(place) for place in (settings.weights, *settings.further)}
    names = Counter(card.name for card in cards.values())
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"found two models of the name {twice[0]}, expected each once: see card.json of their folders"
        )
    return cards


def _layers(settings: Settings, limits: RequestLimits, telemetry: Telemetry) -> list[Middleware]:
    """Outermost first."""
    access = ApiKeys(read_keys(settings.api_keys_file), settings.requests_per_minute)
    layers = [Middleware(RequestContextMiddleware, telemetry=telemetry)]
    if settings.cors_origins:
        headers = ["Accept", "Authorization", "Content-Type", "X-API-Key", "X-Request-ID"]
        origins = list(settings.cors_origins)
        layers.append(
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
        )
    return [
        *layers,
        Middleware(AdmissionMiddleware, access=access, most=settings.max_open_requests),
        Middleware(BodyLimitMiddleware, limits=limits),
    ]


async def _answer_error(request: Request, error: Exception) -> Response:
    problem = from_status(error.status_code) if isinstance(error, HTTPException) else from_exception(error)
    headers = {**(getattr(error, "headers", None) or {}), "Content-Type": MEDIA_TYPE, "Vary": "Accept"}
    return Response(problem.body(request.state.request_id), problem.kind.status, headers=headers)
