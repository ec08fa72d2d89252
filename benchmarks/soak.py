"""A soak: clients that come, stream, give up, miss deadlines and overload, for minutes; memory must stay flat.

    python -m benchmarks.soak --minutes 10

Then the same with an engine that leaks, for a tenth of the time: a watch that does not bark at that is worth nothing.
"""

import argparse
import asyncio
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.measure import tell
from service.engine import Engine, from_weights
from service.settings import BUNDLED_WEIGHTS
from service.work import Done, Event, Failed, LikelihoodOptions, Overloaded, Sampled, SampleWork
from service.worker import Care, EngineSpec, ProcessClient

CLIENTS = 8
ALLOWED = 10.0
"""Megabytes a minute: below the noise of an allocator, far below what a lost molecule a second would cost."""


@dataclass
class Watch:
    """Memory of both processes over time, and what became of the works."""

    seconds: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def growth(self, memory: Sequence[float]) -> float:
        """Megabytes a minute over the second half, as the median slope between all pairs of moments (Theil, Sen)."""
        half = len(self.seconds) // 2
        t, m = np.array(self.seconds[half:]), np.array(memory[half:])
        first, second = np.triu_indices(len(t), 1)
        return float(60 * np.median((m[second] - m[first]) / (t[second] - t[first])))

    @property
    def flat(self) -> bool:
        """Whether neither process grows."""
        return max(self.growth(self.service), self.growth(self.engine)) < ALLOWED


def leaky(weights: str) -> Engine:
    """An engine that keeps 2 MB of every step."""
    engine, kept = from_weights(weights, "cpu", threads=1), []
    step = engine.step

    def leaking() -> list[Event]:
        kept.append(np.random.default_rng(len(kept)).random(250_000))
        return step()

    engine.step = leaking  # type: ignore[method-assign]
    return engine


async def client(service: ProcessClient, watch: Watch, number: int, until: float) -> None:
    """One caller after the other, each of a mood of its own."""
    chance, count = random.Random(number), 0
    while time.monotonic() < until:
        count += 1
        mood = chance.choice(["patient", "patient", "leaves", "vanishes", "late"])
        work = SampleWork(
            id=f"{number}-{count}",
            seed=count,
            n_atoms=tuple(chance.randint(3, 9) for _ in range(chance.choice([1, 1, 2, 8]))),
            frames=chance.choice([0, 0, 5]),
            progress=chance.random() < 0.5,
            nll=LikelihoodOptions("hutchinson") if chance.random() < 0.1 else None,
            client=str(number % 3),
            deadline=time.time() + 0.3 if mood == "late" else None,
        )
        try:
            await service.submit(work)
        except Overloaded:
            watch.ends["refused"] += 1
            await asyncio.sleep(0.5)
            continue
        await _listen(service, watch, work, mood, chance)


async def _listen(service: ProcessClient, watch: Watch, work: SampleWork, mood: str, chance: random.Random) -> None:
    if mood in ("leaves", "vanishes"):
        await asyncio.sleep(chance.uniform(0, 1))
        await service.abort(work.id)
        watch.ends["aborted"] += 1
        return
    told: Counter[int] = Counter()
    async for event in service.events(work.id):
        if isinstance(event, Sampled | Failed):
            told[event.index] += 1
        if isinstance(event, Done):
            watch.ends["complete" if told == dict.fromkeys(range(len(work)), 1) else "WRONG"] += 1


async def soak(spec: EngineSpec, minutes: float) -> Watch:
    """Traffic for so long, then what was seen."""
    service, watch = ProcessClient(spec, Care(queue_s=120.0)), Watch()
    await service.start()
    while not service.health().ready:
        await asyncio.sleep(0.1)
    begin = time.monotonic()
    callers = [asyncio.create_task(client(service, watch, n, begin + 60 * minutes)) for n in range(CLIENTS)]
    while not all(caller.done() for caller in callers):
        await asyncio.sleep(0.5)
        watch.seconds.append(time.monotonic() - begin)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        watch.service.append(pages * resource.getpagesize() / 1e6)
        watch.engine.append(service.stats().memory_bytes / 1e6)
    await asyncio.gather(*callers)
    watch.ends["restarts"], watch.steps = service.stats().restarts, service.stats().steps
    await service.close()
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    weights = {"weights": str(BUNDLED_WEIGHTS)}
    honest = EngineSpec("service.engine:from_weights", {**weights, "device": "cpu", "threads": 1})
    seen = {
        "engine": asyncio.run(soak(honest, minutes)),
        "leaking control": asyncio.run(soak(EngineSpec("benchmarks.soak:leaky", weights), max(1.0, minutes / 10))),
    }
    facts = {
        name: {
            "minutes": round(watch.seconds[-1] / 60, 1),
            "service_mb_per_min": round(watch.growth(watch.service), 2),
            "engine_mb_per_min": round(watch.growth(watch.engine), 2),
            "steps": watch.steps,
            "flat": watch.flat,
            "works": dict(watch.ends),
        }
        for name, watch in seen.items()
    }
    passed = seen["engine"].flat and not seen["leaking control"].flat and not seen["engine"].ends["WRONG"]
    rows = [[name, *(str(value) for value in found.values())] for name, found in facts.items()]
    tell(
        "soak",
        f"Soak: {'passed' if passed else 'FAILED'}",
        ["engine", *facts["engine"]],
        rows,
        {"passed": passed, **facts},
    )


if __name__ == "__main__":
    main()
