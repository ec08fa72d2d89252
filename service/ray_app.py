"""The engine as a Ray Serve deployment: replicas on as many GPUs as there are, before them the same application.

`enflow serve --ray` answers HTTP itself and has the engines in Ray; on a cluster `deploy/serve.yml` has Serve's proxies
and replicas of the application before them. Our engine batches, so that Serve must not (never `@serve.batch`).
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray reads its environment when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # of 15 by Ray: engines are no background work

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from enflow.model.errors import ConfigError
from enflow.service.client.lazy_client import further_clients
from enflow.service.client.process_client import RestartPolicy, engine_client
from enflow.service.client.replica_client import ReplicaClient, ReplicaLost, ReplicaStatus
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Overloaded, Unavailable
from enflow.service.settings import Settings, read_settings

APPLICATION = "enflow"

ONGOING = 1024
"""Portions that a replica takes: more than the engine's queue ever holds, since the engine is to batch, not Serve."""

WORK_S = 30.0
"""Seconds of queued work for which a replica more is wanted: about what one takes to start."""

PACE_S = 0.05
"""Seconds between two bundles of events: each costs Ray milliseconds, and a small step takes no longer."""

REFUSAL_S = 1.0
"""Seconds for which an engine that takes no work holds on to what it was asked: Serve sends the next to where less is
open, and a replica that refuses at once would have nothing open ever."""

UNREADY_S = 60.0
"""An engine that has not been ready for so long will not be: its replica is replaced."""


class EngineReplica:
    """A replica: engines in processes of their own, as everywhere, and this actor to reach them."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc] # Serve awaits it
        self._care = RestartPolicy()
        clients = {settings.weights: engine_client(settings, self._care), **further_clients(settings, self._care)}
        self._clients = {str(place): client for place, client in clients.items()}
        self._patience = time.monotonic() + self._care.start_s
        for client in self._clients.values():
            await client.start()
        while not all(client.health().ready for client in self._clients.values()):
            self.check_health()
            await asyncio.sleep(0.05)

    async def run(self, model: str, work: EngineRequest, answered: frozenset[int]) -> AsyncIterator[list[Event]]:
        """What becomes of a work; events that come together travel together."""
        client = self._clients[model]
        while True:
            try:
                await client.submit(work, answered)
                break
            except Overloaded as busy:  # several applications may share this engine
                await asyncio.sleep(min(busy.retry_after, 1.0))
            except Unavailable:
                await asyncio.sleep(REFUSAL_S)
                raise
        try:
            async for bundle in bundled(client.events(work.id)):
                yield bundle
        finally:
            await client.abort(work.id)

    def pulse(self, model: str) -> ReplicaStatus:
        """What this replica says of itself."""
        stats, health = self._clients[model].stats(), self._clients[model].health()
        name = serve.get_replica_context().replica_id.unique_id
        return ReplicaStatus(name, os.getpid(), stats, health, stats.queue_limit / self._care.queue_s)

    def check_health(self) -> None:
        """Serve replaces the replica where this raises.

        Raises:
            RuntimeError: an engine has not been ready for long.
        """
        ill = [health for client in self._clients.values() if not (health := client.health()).ready]
        now = time.monotonic()
        if not ill:
            self._patience = now + UNREADY_S
        elif now > self._patience or not all(health.live for health in ill):
            raise RuntimeError("; ".join(health.reason for health in ill))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_wanted` goes by."""
        return {"queue_seconds": sum(client.stats().queue_seconds for client in self._clients.values())}

    async def __del__(self) -> None:
        for client in self._clients.values():
            await client.close()


class Api:
    """A replica of the application behind Serve's proxies: keys, limits, formats, chemistry; no model."""

    def __init__(self, settings: Settings, engines: Any) -> None:
        self._settings, self._engines = settings, engines

    def __serve_build_asgi_app__(self) -> Any:
        from enflow.service.api.app import create_app

        return create_app(self._settings, *clients(self._settings, self._engines))


def replicas_wanted(context: Any) -> tuple[float, dict[str, Any]]:
    """The autoscaling policy: as many replicas as bring the work in all queues below WORK_S seconds for each."""
    measured = (context.aggregated_metrics or {}).get("queue_seconds", {})
    return max(1.0, sum(measured.values()) / WORK_S), {}


class RayReplicaSet:
    """One model, named by its folder, of the replicas of a deployment of `EngineReplica`."""

    def __init__(self, handle: Any, model: str) -> None:
        self._handle, self._model = handle, model
        self._run = handle.options(method_name="run", stream=True)

    async def run(self, work: EngineRequest, answered: frozenset[int]) -> AsyncGenerator[Sequence[Event], None]:
        """What becomes of a work, on the replica with fewer open portions of two drawn by chance."""
        stream, ended = self._run.remote(self._model, work, answered), False
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
            if not ended:  # nobody listens any more: the rows leave the device
                stream.cancel()

    async def pulses(self) -> Sequence[ReplicaStatus]:
        """Of all replicas that there are."""
        try:
            asked = self._handle.broadcast("pulse", self._model)
            found = await asked.results_async(timeout_s=5.0, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        return [pulse for pulse in found if isinstance(pulse, ReplicaStatus)]


def clients(settings: Settings, handle: Any) -> tuple[ReplicaClient, dict[Path, ReplicaClient]]:
    """The clients of the replicas behind a handle: of the first model, and of the others by their folders."""
    further = {place: ReplicaClient(RayReplicaSet(handle, str(place))) for place in settings.further}
    return ReplicaClient(RayReplicaSet(handle, str(settings.weights))), further


def deployments(settings: Settings, resources: Mapping[str, float]) -> tuple[Any, Any]:
    """The two deployments; what a replica of the engine needs of a machine is `resources`."""
    stopping = {"graceful_shutdown_timeout_s": settings.drain_s, "graceful_shutdown_wait_loop_s": 0.5}
    health = {"health_check_period_s": 5, "health_check_timeout_s": 20}
    engine = serve.deployment(name="EngineReplica", max_ongoing_requests=ONGOING, **stopping, **health)(EngineReplica)
    api = serve.deployment(name="Api", max_ongoing_requests=2 * settings.max_open_requests, **stopping)
    return engine.options(ray_actor_options=dict(resources)), api(serve.ingress()(Api))


def application(args: dict[str, Any]) -> Any:
    """What `serve run` and `serve deploy` start: settings by their lower-case names, over those of the environment.

    Raises:
        ConfigError: a setting is none, or the service would be open to strangers.
    """
    # Serve's proxies listen where the config file says, and the application cannot see where that is.
    settings = read_settings({"host": "0.0.0.0", **args})  # noqa: S104
    engine, api = deployments(settings, {})
    return api.bind(settings, engine.bind(settings))


@contextmanager
def ray_cluster() -> Iterator[str]:
    """A small cluster on this machine's loopback, or the one of RAY_ADDRESS; its address."""
    address = os.environ.get("RAY_ADDRESS")
    # Some CPU for Ray's own bookkeeping only: it starts as many idle workers. ReplicaClient take threads, not these.
    alone = {"_node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 100 * 2**20}
    context = ray.init(address or "local", include_dashboard=False, log_to_driver=False, **({} if address else alone))
    try:
        yield context.address_info["gcs_address"]
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def engines(
    settings: Settings, replicas: int | None = None
) -> Iterator[tuple[ReplicaClient, dict[Path, ReplicaClient]]]:
    """Engines in Ray, and the clients of them all.

    Args:
        replicas: how many; None = one for each GPU, or one.

    Raises:
        ConfigError: they do not start.
    """
    with ray_cluster():
        yield clients(settings, started(settings, replicas))


def started(settings: Settings, replicas: int | None) -> Any:
    """The handle of so many engines, once they are ready.

    Raises:
        ConfigError: they do not start.
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
    """Events as they come, those in one list that come while the list before is on its way."""
    came: asyncio.Queue[Event | None] = asyncio.Queue()

    async def fetch() -> None:
        try:
            async for event in events:
                came.put_nowait(event)
        finally:
            came.put_nowait(None)

    fetching = asyncio.create_task(fetch())
    try:
        ended = False
        while not ended:
            bundle = [await came.get()]
            while not came.empty():
                bundle.append(came.get_nowait())
            ended = bundle[-1] is None
            yield [event for event in bundle if event is not None]
            await asyncio.sleep(0 if ended else PACE_S)
        await fetching
    finally:
        fetching.cancel()
