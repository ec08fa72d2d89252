"""The engine as a Ray Serve deployment, with replicas on many GPUs or machines.

`enflow serve --ray` answers HTTP in its own process and runs the engines in Ray. On a cluster `deploy/serve.yml` runs
the HTTP application in Ray as well, behind Serve's proxies. The engine batches by itself, so `@serve.batch` is not
used.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

# Ray reads its environment when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 is for background work

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from enflow.model.card import read_card
from enflow.model.errors import ConfigError
from enflow.service.client.config import ClientConfig
from enflow.service.client.lazy_client import further_clients
from enflow.service.client.process_client import engine_client
from enflow.service.client.replica_client import ReplicaClient
from enflow.service.client.replica_pool import ReplicaLost, ReplicaStatus
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Overloaded, Unavailable
from enflow.service.settings import Settings, read_settings

APPLICATION = "enflow"

MAX_ONGOING = 1024
"""Portions that a replica accepts: more than the engine's queue ever holds, since the engine batches and not Serve."""

SECONDS_PER_REPLICA = 30.0
"""Seconds of queued computing for which one replica more is started: about the time that its start takes."""

BUNDLE_S = 0.05
"""Seconds between two bundles of events. Each bundle costs Ray milliseconds, and a short step takes about as long."""

REFUSAL_S = 1.0
"""Seconds before an engine that accepts no requests refuses one. The replica with the fewest open requests is chosen,
and one that refused at once would always have the fewest."""

UNREADY_S = 60.0
"""Seconds without a ready engine after which Serve replaces a replica."""


class EngineReplica:
    """A replica: a Ray actor with the engines of all models, each in a process of its own."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc] # Serve awaits it
        self._config = ClientConfig()
        clients = {settings.weights: engine_client(settings, self._config), **further_clients(settings, self._config)}
        self._clients = {str(place): client for place, client in clients.items()}
        self._hashes = {str(place): read_card(place).weights_sha256 for place in clients}
        self._ready_until = time.monotonic() + self._config.start_s
        for client in self._clients.values():
            await client.start()
        while not all(client.health().ready for client in self._clients.values()):
            self.check_health()
            await asyncio.sleep(0.05)

    async def run(
        self, model: str, sha256: str, request: EngineRequest, answered: frozenset[int]
    ) -> AsyncIterator[list[Event]]:
        """Run a request without its answered samples; yield lists of events.

        Raises:
            Unavailable: the weights do not have this SHA-256, or the engine accepts no requests now.
        """
        client = self._clients[model]
        if reason := self._other_weights(model, sha256):
            await asyncio.sleep(REFUSAL_S)
            raise Unavailable(reason)
        while True:
            try:
                await client.submit(request, answered)
                break
            except Overloaded as overloaded:  # other applications may use this engine as well
                await asyncio.sleep(min(overloaded.retry_after, 1.0))
            except Unavailable:
                await asyncio.sleep(REFUSAL_S)
                raise
        try:
            async for bundle in bundled(client.events(request.id)):
                yield bundle
        finally:
            await client.abort(request.id)

    def status(self, model: str, sha256: str) -> ReplicaStatus:
        """Return the status of the engine of one model; with other weights it is not ready."""
        stats, health = self._clients[model].stats(), self._clients[model].health()
        if reason := self._other_weights(model, sha256):
            health = replace(health, ready=False, reason=reason)
        name = serve.get_replica_context().replica_id.unique_id
        return ReplicaStatus(name, os.getpid(), stats, health, stats.queue_limit / self._config.queue_s)

    def _other_weights(self, model: str, sha256: str) -> str:
        found = self._hashes[model]
        return "" if found == sha256 else f"found weights with SHA-256 {found} on a replica, expected {sha256}"

    def check_health(self) -> None:
        """Check the engines; Serve replaces the replica if this raises.

        Raises:
            RuntimeError: an engine is not supervised, or was not ready for a long time.
        """
        unready = [health for client in self._clients.values() if not (health := client.health()).ready]
        now = time.monotonic()
        if not unready:
            self._ready_until = now + UNREADY_S
        elif now > self._ready_until or not all(health.live for health in unready):
            raise RuntimeError("; ".join(health.reason for health in unready))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the measurement for `replicas_wanted`."""
        return {"queue_seconds": sum(client.stats().queue_seconds for client in self._clients.values())}

    async def __del__(self) -> None:
        for client in self._clients.values():
            await client.close()


class Api:
    """A replica of the HTTP application behind Serve's proxies; it holds no model."""

    def __init__(self, settings: Settings, engines: Any) -> None:
        self._settings, self._engines = settings, engines

    def __serve_build_asgi_app__(self) -> Any:
        from enflow.service.api.app import create_app

        return create_app(self._settings, *clients(self._settings, self._engines))


def replicas_wanted(context: Any) -> tuple[float, dict[str, Any]]:
    """Return the number of replicas for which each has at most SECONDS_PER_REPLICA of queued computing."""
    measured = (context.aggregated_metrics or {}).get("queue_seconds", {})
    return max(1.0, sum(measured.values()) / SECONDS_PER_REPLICA), {}


class RayReplicaPool:
    """The `ReplicaPool` of one model in a deployment of `EngineReplica`.

    Args:
        handle: the deployment.
        weights: the folder of the weights, which names the model. Replicas that start after its files were replaced
            are refused: the SHA-256 that it has now stands in every answer.
    """

    def __init__(self, handle: Any, weights: Path) -> None:
        self._handle, self._model = handle, (str(weights), read_card(weights).weights_sha256)
        self._run = handle.options(method_name="run", stream=True)

    async def run(self, request: EngineRequest, answered: frozenset[int]) -> AsyncGenerator[Sequence[Event], None]:
        """Run a request on the replica with the fewest open requests."""
        stream, ended = self._run.remote(*self._model, request, answered), False
        try:
            async for bundle in stream:
                yield bundle
            ended = True
        except (RayError, RayServeException) as error:
            ended = True
            if isinstance(cause := getattr(error, "cause", None), Unavailable):
                raise cause from None
            raise ReplicaLost(type(error).__name__) from None
        finally:
            if not ended:  # the caller has gone, and the rows must leave the device
                stream.cancel()

    async def statuses(self) -> Sequence[ReplicaStatus]:
        """Return the status of every replica."""
        try:
            responses = self._handle.broadcast("status", *self._model)
            statuses = await responses.results_async(timeout_s=5.0, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        return [status for status in statuses if isinstance(status, ReplicaStatus)]


def clients(settings: Settings, handle: Any) -> tuple[ReplicaClient, dict[Path, ReplicaClient]]:
    """Return the client of the first model, and the clients of the others by the folder of their weights."""
    further = {place: ReplicaClient(RayReplicaPool(handle, place)) for place in settings.further}
    return ReplicaClient(RayReplicaPool(handle, settings.weights)), further


def deployments(settings: Settings, resources: Mapping[str, float]) -> tuple[Any, Any]:
    """Return the deployments of the engine and of the application; `resources` are those of an engine replica."""
    shutdown = {"graceful_shutdown_timeout_s": settings.drain_s, "graceful_shutdown_wait_loop_s": 0.5}
    health = {"health_check_period_s": 5, "health_check_timeout_s": 20}
    router = RequestRouterConfig(request_router_class="enflow.service.ray_router.FewestPortions")
    engine = serve.deployment(
        name="EngineReplica", max_ongoing_requests=MAX_ONGOING, request_router_config=router, **shutdown, **health
    )(EngineReplica)
    api = serve.deployment(name="Api", max_ongoing_requests=2 * settings.max_open_requests, **shutdown)
    return engine.options(ray_actor_options=dict(resources)), api(serve.ingress()(Api))


def application(args: dict[str, Any]) -> Any:
    """Return the application that `serve run` and `serve deploy` start.

    Args:
        args: settings by their lower-case names; they replace those of the environment.

    Raises:
        ConfigError: a setting is unknown, or the service would be open without API keys.
    """
    # Serve's proxies listen where the config file says, and the application cannot see the address.
    settings = read_settings({"host": "0.0.0.0", **args})  # noqa: S104
    engine, api = deployments(settings, {})
    return api.bind(settings, engine.bind(settings))


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Start a small cluster on the loopback address, or join the one of RAY_ADDRESS; yield its address."""
    address = os.environ.get("RAY_ADDRESS")
    # One CPU for Ray's own work, since Ray starts one idle worker for each. Engines use threads, not these CPUs.
    local = {"_node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 100 * 2**20}
    context = ray.init(address or "local", include_dashboard=False, log_to_driver=False, **({} if address else local))
    try:
        yield context.address_info["gcs_address"]
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def engines(
    settings: Settings, replicas: int | None = None
) -> Iterator[tuple[ReplicaClient, dict[Path, ReplicaClient]]]:
    """Start engines in Ray and yield their clients.

    Args:
        settings: the settings of the service.
        replicas: the number of replicas; None = one for each GPU, or one.

    Raises:
        ConfigError: the engines do not start.
    """
    with ray_cluster():
        yield clients(settings, start_engines(settings, replicas))


def start_engines(settings: Settings, replicas: int | None) -> Any:
    """Start engines in Ray and return their handle once they are ready.

    Raises:
        ConfigError: the engines do not start.
    """
    gpus = 0 if settings.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
    replicas = replicas or gpus or 1
    threads = settings.threads or (None if gpus else max(1, (os.cpu_count() or 1) // replicas))
    settings = settings.model_copy(update={"threads": threads})
    cores = (threads or 1) if "RAY_ADDRESS" in os.environ else 0
    engine, _ = deployments(settings, {"num_gpus": 1} if gpus else {"num_cpus": cores})
    serve.start(proxy_location="Disabled")
    try:
        return serve.run(engine.options(num_replicas=replicas).bind(settings), name=APPLICATION, route_prefix=None)
    except RuntimeError as error:
        raise ConfigError(f"the engines did not start in Ray: {error}") from None


async def bundled(events: AsyncIterator[Event]) -> AsyncIterator[list[Event]]:
    """Yield lists of events: all that have arrived since the last list."""
    arrived: asyncio.Queue[Event | None] = asyncio.Queue()

    async def fetch() -> None:
        try:
            async for event in events:
                arrived.put_nowait(event)
        finally:
            arrived.put_nowait(None)

    fetching = asyncio.create_task(fetch())
    try:
        ended = False
        while not ended:
            bundle = [await arrived.get()]
            while not arrived.empty():
                bundle.append(arrived.get_nowait())
            ended = bundle[-1] is None
            yield [event for event in bundle if event is not None]
            await asyncio.sleep(0 if ended else BUNDLE_S)
        await fetching
    finally:
        fetching.cancel()
