"""The application: models, middleware, routes, and the mapping of exceptions to problems."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from enflow import __version__
from enflow.model.errors import ConfigError, EnflowError
from enflow.service.api import depictions, job_routes, openapi, routes, static_pages
from enflow.service.api.auth import read_keys
from enflow.service.api.middleware.admission import AdmissionMiddleware, ApiKeys, TrustedOriginMiddleware
from enflow.service.api.middleware.body_limit import BodyLimitMiddleware
from enflow.service.api.middleware.request_context import (
    PathPrefixMiddleware,
    RequestContextMiddleware,
    is_request_id,
    new_request_id,
)
from enflow.service.chemistry.rdkit_pool import RDKitPool
from enflow.service.client.base import EngineClient
from enflow.service.client.lazy_client import further_clients
from enflow.service.client.process_client import engine_client
from enflow.service.handlers.job_runner import JobRunner
from enflow.service.handlers.jobs import JobsHandler
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.served_model import ServedModel
from enflow.service.handlers.served_particles import ServedParticles
from enflow.service.jobs.store import JobStore, StoreError
from enflow.service.model_card import ModelCard, read_model_card
from enflow.service.problems import MEDIA_TYPE, Problem, from_errors, from_exception, from_status
from enflow.service.settings import RequestLimits, Settings
from enflow.service.telemetry import EngineMetrics, Telemetry, log, log_health

ROUTERS = (routes.compute, depictions.depictions, job_routes.jobs, routes.status, static_pages.pages)


def create_app(
    settings: Settings | None = None,
    client: EngineClient | None = None,
    further: Mapping[Path, EngineClient] | None = None,
) -> FastAPI:
    """Return the application around the engines of all models.

    Args:
        settings: the settings; None reads them from the environment.
        client: the client of the first model's engine; None starts an engine in a process.
        further: the clients of the other models by the folders of their weights; None starts a process for each.

    Raises:
        WeightsError: weights have no usable card.
        ConfigError: the file of API keys cannot be used, or two models have one name.
    """
    settings, telemetry = settings or Settings(), Telemetry()
    cards = read_cards(settings)
    limits = limits_of(settings, list(cards.values()))
    app = FastAPI(
        title="Enflow",
        version=__version__,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(settings, cards, telemetry, client, further),
        middleware=_middleware(settings, limits, telemetry),
        exception_handlers=dict.fromkeys((Problem, HTTPException, EnflowError, RequestValidationError), _respond),
    )
    for router in ROUTERS:
        app.include_router(router)
    app.routes.extend(static_pages.mounts())
    keys_needed = settings.api_keys_file is not None
    app.openapi_schema = openapi.complete(app.openapi(), limits, list(cards.values()), keys_needed=keys_needed)
    return app


def _lifespan(
    settings: Settings,
    cards: Mapping[Path, ModelCard],
    telemetry: Telemetry,
    client: EngineClient | None,
    further: Mapping[Path, EngineClient] | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of the application; at its start the models get their clients."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        clients = engine_clients(settings, client, further)
        limits = limits_of(settings, list(cards.values()))
        chemistry = RDKitPool(settings.chemistry, limits, telemetry)
        app.state.registry = registry = ModelRegistry({}, limits)
        app.state.job_limits = job_limits(settings, limits)
        for folder, card in cards.items():
            kind = ServedParticles if card.system else ServedModel
            own = limits_of(settings, [card])
            registry.models[card.name] = kind(clients[folder], chemistry, card, own, telemetry, registry.stopping)
        async with _running(registry, chemistry, telemetry), _jobs(app, settings, registry):
            yield

    return lifespan


def engine_clients(
    settings: Settings, client: EngineClient | None = None, further: Mapping[Path, EngineClient] | None = None
) -> dict[Path, EngineClient]:
    """Return the clients of all models by the folders of their weights: the given ones, else an engine for each."""
    return {settings.weights: client or engine_client(settings), **(further or further_clients(settings))}


@asynccontextmanager
async def _jobs(app: FastAPI, settings: Settings, registry: ModelRegistry) -> AsyncIterator[None]:
    """Open the store of jobs, and compute its jobs while the engines run; without a store there are no jobs."""
    app.state.jobs = None
    try:
        store = await asyncio.to_thread(JobStore, settings.jobs_database)
    except StoreError as error:
        log.error("no jobs", reason=str(error))
        yield
        return
    runner = JobRunner(store, registry, settings.jobs, asyncio.Semaphore(settings.chemistry.processes))
    private = settings.api_keys_file is not None
    app.state.jobs = JobsHandler(store, runner, registry, settings.jobs, private=private)
    computing = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        computing.cancel()
        await asyncio.gather(computing, return_exceptions=True)
        await asyncio.to_thread(store.close)


@asynccontextmanager
async def _running(registry: ModelRegistry, chemistry: RDKitPool, telemetry: Telemetry) -> AsyncIterator[None]:
    """Start the chemistry and the engines, watch them, and close them at the end."""
    telemetry.watch({each.card.name: EngineMetrics(each.client.stats, each.card.sha256) for each in registry})
    try:
        await asyncio.gather(chemistry.start(), *(served.client.start() for served in registry))
        watching = asyncio.create_task(log_health({each.card.name: each.client.health for each in registry}))
        yield
        watching.cancel()
    finally:
        closing = (served.client.close() for served in registry)
        await asyncio.gather(asyncio.to_thread(chemistry.close), *closing)


def read_cards(settings: Settings) -> dict[Path, ModelCard]:
    """Return the cards of all models by their folders, the first model first.

    Raises:
        WeightsError: weights have no usable card.
        ConfigError: two models have one name.
    """
    cards = {folder: read_model_card(folder) for folder in (settings.weights, *settings.further)}
    names = Counter(card.name for card in cards.values())
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"found two models with the name {twice[0]}, expected one: see card.json in their folders")
    return cards


def limits_of(settings: Settings, cards: Sequence[ModelCard]) -> RequestLimits:
    """Return the limits of a request that may name any of some models: the largest model bounds `max_atoms`."""
    largest = max(card.vocabulary.max_atoms for card in cards)
    return settings.limits.model_copy(update={"max_atoms": min(settings.limits.max_atoms, largest)})


def job_limits(settings: Settings, limits: RequestLimits) -> RequestLimits:
    """Return the limits of the body of a job."""
    most = settings.jobs.max_molecules
    return limits.model_copy(update={"max_molecules": most, "max_records": most})


def _middleware(settings: Settings, limits: RequestLimits, telemetry: Telemetry) -> list[Middleware]:
    """Return the middleware, outermost first."""
    access = ApiKeys(read_keys(settings.api_keys_file), settings.requests_per_minute)
    hosts = settings.allowed_hosts or (("*",) if settings.api_keys_file else ())
    layers = [
        Middleware(CorrelationIdMiddleware, validator=is_request_id, generator=new_request_id),
        Middleware(RequestContextMiddleware, telemetry=telemetry),
        Middleware(PathPrefixMiddleware, prefix=settings.root_path or ""),
        Middleware(TrustedOriginMiddleware, hosts=hosts, origins=settings.cors_origins),
        Middleware(AdmissionMiddleware, access=access, max_open=settings.max_open_requests),
        Middleware(BodyLimitMiddleware, limits=limits, max_arriving=settings.max_arriving_bytes),
    ]
    if settings.cors_origins:
        headers = ["Accept", "Authorization", "Content-Type", "X-API-Key", "X-Request-ID"]
        origins = list(settings.cors_origins)
        methods = ["GET", "POST", "DELETE"]
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=headers)
        layers.insert(4, cors)  # around admission, so that a foreign page can read a refusal
    return layers


def _methods(path: str) -> list[str]:
    """Return the methods of all routes with a path; Starlette names those of the first route alone."""
    routes = (route for router in ROUTERS for route in router.routes if isinstance(route, Route))
    return sorted(set().union(*(route.methods or () for route in routes if route.path_regex.match(path))))


async def _respond(request: Request, error: Exception) -> Response:
    match error:
        case HTTPException():
            problem = from_status(error.status_code)
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                error.headers = {
                    "Allow": ", ".join(_methods(request.scope["path"].removeprefix(request.scope["root_path"])))
                }
        case RequestValidationError():
            problem = from_errors([{**each, "loc": each["loc"][1:]} for each in error.errors()])
        case _:
            problem = from_exception(error)
    headers = {**(getattr(error, "headers", None) or {}), "Content-Type": MEDIA_TYPE, "Vary": "Accept"}
    return Response(problem.body(request.state.request_id), problem.kind.status, headers=headers)
