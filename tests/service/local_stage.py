"""ReplicaClient without a cluster: a stage of engines in threads, which can be lost."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from enflow.service.client.process_client import EngineSpec, InProcessClient, RestartPolicy
from enflow.service.client.replica_client import ReplicaClient, ReplicaLost, ReplicaStatus
from enflow.service.protocol.events import Event, Progress
from enflow.service.protocol.requests import EngineRequest


class LocalStage:
    """Engines in this process; a portion goes to the one with fewest open, of several to who was asked least."""

    def __init__(self, count: int, spec: EngineSpec, care: RestartPolicy) -> None:
        self.engines = {f"replica {i}": InProcessClient(spec, care) for i in range(count)}
        self.open: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.poison = 0

    async def run(self, work: EngineRequest, answered: frozenset[int]) -> AsyncGenerator[Sequence[Event], None]:
        name = min(sorted(self.engines.keys() - self.lost), key=lambda each: (self.open[each], self.asked[each]))
        engine, attempt = self.engines[name], replace(work, id=f"{name}: {work.id}")
        self.open[name] += 1
        self.asked[name] += 1
        try:
            if self.poison and self.poison in getattr(work, "n_atoms", ()):
                raise ReplicaLost("poisoned")
            await engine.submit(attempt, answered)
            async for event in engine.events(attempt.id):
                if name in self.lost:
                    raise ReplicaLost(f"{name} was killed")
                self.served[name] += not isinstance(event, Progress)
                yield [event]
        finally:
            self.open[name] -= 1
            await engine.abort(attempt.id)

    async def pulses(self) -> Sequence[ReplicaStatus]:
        alive = {name: engine for name, engine in self.engines.items() if name not in self.lost}
        return [ReplicaStatus(name, 0, engine.stats(), engine.health(), 1e5) for name, engine in alive.items()]


class TwoReplicas(ReplicaClient):
    """The client of two engines in threads."""

    def __init__(self, spec: EngineSpec, care: RestartPolicy) -> None:
        self.stage = LocalStage(2, spec, care)
        super().__init__(self.stage, care.queue_s, care.client_share)

    async def start(self) -> None:
        for engine in self.stage.engines.values():
            await engine.start()
        await super().start()

    async def close(self) -> None:
        await super().close()
        for engine in self.stage.engines.values():
            await engine.close()
