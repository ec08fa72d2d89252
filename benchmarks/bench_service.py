"""Latency under load: continuous batching against a request at a time and against batches of whole requests.

Requests of 1 to 64 molecules of QM9's sizes, at draft to precise tolerance, arrive by a Poisson process at 70 % of what
the engine can do. A small request is one for a single molecule, at whatever tolerance; half of them are. All three ways
run the same engine on the same weights and the same requests; time is the processor time that the work takes, and
waiting takes none of it, so that a busy machine stretches nothing. Throughput is that of requests that all come at
once, the median of three turns of each way. `python -m benchmarks.bench_service`
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import write_results
from enflow.model.checkpoint import load
from enflow.model.config import TOLERANCES
from enflow.service.engine.core import Engine, run
from enflow.service.protocol.events import Done
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.settings import BUNDLED_WEIGHTS

LOAD = 0.7
CROWD, TURNS = 20, 3
"""Requests that come at once where throughput is measured, and how often each way has them."""
REQUIRED = 5.0
MAX_BATCH = 64
"""Molecules of a batch of whole requests, as a server that batches requests is set up."""

Latencies = dict[str, float]


@dataclass(frozen=True)
class Request:
    """A work and when it arrives."""

    work: EngineSampleRequest
    at: float


def requests(count: int, rate: float, seed: int) -> list[Request]:
    """Half of them single molecules, the others up to 64; `rate` arrivals a second."""
    chance = np.random.default_rng(seed)
    arrivals = np.cumsum(chance.exponential(1 / rate, count))
    sizes = np.where(chance.random(count) < 0.5, 1, np.exp2(chance.uniform(1, 6, count)).astype(int))
    tolerances = chance.choice(list(TOLERANCES.values()), count, p=[0.4, 0.4, 0.2])
    return [
        Request(_work(f"{i}", int(n), float(tolerance)), float(at))
        for i, (n, tolerance, at) in enumerate(zip(sizes, tolerances, arrivals, strict=True))
    ]


def _work(name: str, molecules: int, tolerance: float) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=int(name), n_atoms=(None,) * molecules, rtol=tolerance, atol=tolerance)


class Clock:
    """Time that passes while somebody works, and jumps where everybody waits."""

    def __init__(self, device: torch.device) -> None:
        self._tick: Callable[[], float] = time.process_time if device.type == "cpu" else time.perf_counter
        self._skipped = -self._tick()

    def now(self) -> float:
        return self._tick() + self._skipped

    def wait_until(self, moment: float) -> None:
        self._skipped += max(0.0, moment - self.now())


def continuous(engine: Engine, load: list[Request], clock: Clock) -> Latencies:
    """Every request enters at the next step, and leaves when its own molecules are done."""
    waiting, came, took = deque(load), {}, {}
    while waiting or not engine.idle:
        if engine.idle:
            clock.wait_until(waiting[0].at)
        while waiting and waiting[0].at <= clock.now():
            request = waiting.popleft()
            came[request.work.id] = request.at
            engine.add(request.work)
        took |= {e.id: clock.now() - came[e.id] for e in engine.step() if isinstance(e, Done)}
    return took


def one_at_a_time(engine: Engine, load: list[Request], clock: Clock) -> Latencies:
    """First come, first served, each alone."""
    return in_batches(engine, load, clock, max_batch=1)


def in_batches(engine: Engine, load: list[Request], clock: Clock, max_batch: int = MAX_BATCH) -> Latencies:
    """All requests that wait, up to so many molecules, as one batch; they are answered when it ends."""
    waiting, took = deque(load), {}
    while waiting:
        clock.wait_until(waiting[0].at)
        batch = list(_batch(waiting, clock.now(), max_batch))
        for request in batch:
            engine.add(request.work)
        while not engine.idle:
            engine.step()
        took |= {request.work.id: clock.now() - request.at for request in batch}
    return took


def _batch(waiting: deque[Request], now: float, max_batch: int) -> Iterator[Request]:
    molecules = 0
    while waiting and waiting[0].at <= now and (not molecules or molecules + len(waiting[0].work) <= max_batch):
        molecules += len(waiting[0].work)
        yield waiting.popleft()


def capacity(engine: Engine, seed: int) -> float:
    """Requests a second when there is always work."""
    load = requests(12, 1.0, seed)
    begin = time.process_time()
    for request in load:
        engine.add(request.work)
    while not engine.idle:
        engine.step()
    return len(load) / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=80)
    parser.add_argument("--quick", action="store_true", help="12 requests, for a look")
    arguments = parser.parse_args()
    count = 12 if arguments.quick else arguments.requests
    torch.set_num_threads(1)
    flow = load(BUNDLED_WEIGHTS, "cuda" if torch.cuda.is_available() else "cpu")
    engine, plain = Engine(flow), Engine(flow, head_start=0)  # those who batch know no small and large
    for one in (engine, plain):
        list(run(one, EngineSampleRequest(id="warm up", seed=0, n_atoms=(9,))))
    rate = LOAD * capacity(plain, seed=1)
    traffic, crowd = requests(count, rate, seed=2), requests(count // 2 if arguments.quick else CROWD, 1e9, seed=3)
    small = {request.work.id for request in traffic if len(request.work) == 1}
    ways = {
        "continuous": partial(continuous, engine),
        "request at a time": partial(one_at_a_time, plain),
        "batches of requests": partial(in_batches, plain),
    }
    latencies = {name: way(traffic, Clock(engine.device)) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if arguments.quick else TURNS):
        for name, way in ways.items():
            clock = Clock(engine.device)
            way(crowd, clock)
            seconds[name].append(clock.now())
    molecules = sum(len(request.work) for request in crowd)
    facts = {name: _summary(latencies[name], small, molecules / float(np.median(seconds[name]))) for name in ways}
    rows = [[name, *(f"{value:.2f}" for value in found.values())] for name, found in facts.items()]
    ours, rivals = facts["continuous"], [facts[name] for name in ways if name != "continuous"]
    gain = min(rival["single p99"] for rival in rivals) / ours["single p99"]
    checks = {
        "p99_5_times_lower": gain >= REQUIRED,
        "throughput_no_lower": ours["molecules/s"] >= 0.98 * max(rival["molecules/s"] for rival in rivals),
    }
    write_results(
        "service",
        f"{count} requests at {LOAD:.0%} of capacity, seconds; p99 of single molecules {gain:.1f} times lower",
        ["way", *ours],
        rows,
        {
            "requests": count, "single": len(small), "arrivals_per_s": round(rate, 3), "p99_gain": round(gain, 2),
            "ways": facts, "checks": checks,
        },
    )  # fmt: skip


def _summary(took: Latencies, small: set[str], throughput: float) -> dict[str, float]:
    every: NDArray[np.float64] = np.array(list(took.values()))
    few = np.array([seconds for name, seconds in took.items() if name in small])
    return {
        "single p50": round(float(np.quantile(few, 0.5)), 3),
        "single p99": round(float(np.quantile(few, 0.99)), 3),
        "all p50": round(float(np.quantile(every, 0.5)), 3),
        "all p99": round(float(np.quantile(every, 0.99)), 3),
        "molecules/s": round(throughput, 3),
    }


if __name__ == "__main__":
    main()
