"""Engines in threads of the test process: alone, behind a socket, and a pool of two of them without a cluster."""

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.process_client import ProcessClient
from enflow.service.client.remote_client import EngineServer, Model, RemoteClient
from enflow.service.client.replica_client import ReplicaClient
from enflow.service.client.replica_pool import ReplicaLost, ReplicaStatus
from enflow.service.client.worker_handle import WorkerRunner
from enflow.service.engine.core import Engine
from enflow.service.engine.process import serve
from enflow.service.protocol.events import Done, Event, Progress
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Overloaded


class ThreadRunner:
    """A worker in a thread. A thread that hangs cannot be killed, only disconnected."""

    def __init__(self, connection: Connection, factory: Callable[[], Engine]) -> None:
        self._connection = connection
        self._thread = threading.Thread(target=self._run, args=(factory,), name="enflow-engine", daemon=True)
        self._thread.start()

    def _run(self, factory: Callable[[], Engine]) -> None:
        with suppress(Exception):  # the client receives the error as Crashed
            serve(self._connection, factory)

    def kill(self) -> None:
        """Close the pipe, so that the next report of the worker fails."""
        with suppress(OSError):
            self._connection.close()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout)

    exitcode = None


class InProcessClient(ProcessClient):
    """A `ProcessClient` whose worker is a thread."""

    def _start_runner(self, connection: Connection) -> WorkerRunner:
        return ThreadRunner(connection, self._spec)


class LocalReplicaPool:
    """Engines in threads that can be lost; a request goes to the engine with the fewest open requests.

    Attributes:
        engines: the engines by name.
        open: requests of each engine that have not ended.
        requested, answered: requests and answers of each engine so far.
        lost: engines whose next event is a loss.
        kills_at: increasing totals of `answered`; at each one the engine that answered becomes the only lost one.
        kills: losses of an engine by `kills_at` so far.
        poison: every engine is lost with a molecule of this number of atoms.
    """

    def __init__(self, count: int, spec: EngineSpec, config: ClientConfig) -> None:
        self.engines = {f"replica {i}": InProcessClient(spec, config) for i in range(count)}
        self.open: Counter[str] = Counter()
        self.requested: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.kills_at: list[int] = []
        self.kills = 0
        self.poison = 0

    async def run(self, request: EngineRequest, answered: frozenset[int]) -> AsyncGenerator[Sequence[Event], None]:
        name = min(sorted(self.engines.keys() - self.lost), key=lambda each: (self.open[each], self.requested[each]))
        engine, attempt = self.engines[name], replace(request, id=f"{name}: {request.id}")
        self.open[name] += 1
        self.requested[name] += 1
        try:
            if self.poison and self.poison in getattr(request, "n_atoms", ()):
                raise ReplicaLost("poisoned")
            while True:  # as `ray_app` does it
                try:
                    await engine.submit(attempt, answered)
                    break
                except Overloaded as overloaded:
                    await asyncio.sleep(min(overloaded.retry_after, 1.0))
            async for event in engine.events(attempt.id):
                if name in self.lost:
                    raise ReplicaLost(f"{name} was killed")
                self._count(name, event)
                yield [event]
        finally:
            self.open[name] -= 1
            await engine.abort(attempt.id)

    def _count(self, name: str, event: Event) -> None:
        self.answered[name] += not isinstance(event, Progress)
        if self.kills_at and self.answered.total() >= self.kills_at[0] and not isinstance(event, Done):
            del self.kills_at[0]
            self.kills += 1
            self.lost = {name}

    async def statuses(self) -> Sequence[ReplicaStatus]:
        alive = {name: engine for name, engine in self.engines.items() if name not in self.lost}
        return [ReplicaStatus(name, 0, engine.stats(), engine.health(), 1e5) for name, engine in alive.items()]


class TwoReplicas(ReplicaClient):
    """The client of two engines in threads."""

    def __init__(self, spec: EngineSpec, config: ClientConfig) -> None:
        self.pool = LocalReplicaPool(2, spec, config)
        super().__init__(self.pool, config.queue_s, config.client_share)

    async def start(self) -> None:
        for engine in self.pool.engines.values():
            await engine.start()
        await super().start()

    async def close(self) -> None:
        await super().close()
        for engine in self.pool.engines.values():
            await engine.close()


class OverSocket(RemoteClient):
    """The client of an engine in a thread, with a socket between them as between two processes."""

    def __init__(self, spec: EngineSpec, config: ClientConfig) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._client, model = InProcessClient(spec, config), Model(Path("model"), "0")
        self._server = EngineServer({model: self._client})
        super().__init__(Path(self._folder.name) / "socket", model)

    async def start(self) -> None:
        await self._client.start()
        self._listening = await self._server.start(Path(self._folder.name) / "socket")
        await super().start()

    async def close(self) -> None:
        await super().close()
        self._listening.close()
        await self._client.close()
        self._folder.cleanup()
