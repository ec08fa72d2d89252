"""Latency under load: continuous batching, one request at a time, and batches of whole requests.

Requests of 1 to 64 molecules of QM9's sizes, at draft to precise tolerance, arrive by a Poisson process at 70 % of
the capacity of the engine. A small request asks for one molecule; half of the requests are small. All three policies
run the same engine on the same weights and the same requests. The clock counts processor time and skips waiting, so
that other programs on the machine change nothing. The throughput is that of requests that arrive together, the median
of three runs of each policy.

    python -m benchmarks.bench_service
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import write_results
from enflow.model.checkpoint import load
from enflow.model.config import TOLERANCES
from enflow.service.engine.config import EngineConfig
from enflow.service.engine.core import Engine
from enflow.service.protocol.events import Done
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.settings import BUNDLED_WEIGHTS
from tests.stubs import run

LOAD = 0.7
CROWD, TURNS = 20, 3
"""Requests that arrive together in a throughput run, and the runs of each policy."""
REQUIRED = 5.0
MAX_BATCH = 64
"""Molecules of a batch of whole requests, a common setting of servers that batch requests."""

Latencies = dict[str, float]


@dataclass(frozen=True)
class Arrival:
    """A request and the time of its arrival."""

    request: EngineSampleRequest
    at: float


def requests(count: int, rate: float, seed: int) -> list[Arrival]:
    """Return requests, half of them for one molecule, the others for up to 64; `rate` arrivals per second."""
    chance = np.random.default_rng(seed)
    arrivals = np.cumsum(chance.exponential(1 / rate, count))
    sizes = np.where(chance.random(count) < 0.5, 1, np.exp2(chance.uniform(1, 6, count)).astype(int))
    tolerances = chance.choice(list(TOLERANCES.values()), count, p=[0.4, 0.4, 0.2])
    return [
        Arrival(_sample_request(f"{i}", int(n), float(tolerance)), float(at))
        for i, (n, tolerance, at) in enumerate(zip(sizes, tolerances, arrivals, strict=True))
    ]


def _sample_request(name: str, molecules: int, tolerance: float) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=int(name), n_atoms=(None,) * molecules, rtol=tolerance, atol=tolerance)


class Clock:
    """A clock that counts computing time and skips waiting."""

    def __init__(self, device: torch.device) -> None:
        self._tick: Callable[[], float] = time.process_time if device.type == "cpu" else time.perf_counter
        self._skipped = -self._tick()

    def now(self) -> float:
        return self._tick() + self._skipped

    def wait_until(self, moment: float) -> None:
        self._skipped += max(0.0, moment - self.now())


def continuous(engine: Engine, load: list[Arrival], clock: Clock) -> Latencies:
    """Add every request at the next step; it ends with its last molecule."""
    waiting, arrivals, latencies = deque(load), {}, {}
    while waiting or not engine.idle:
        if engine.idle:
            clock.wait_until(waiting[0].at)
        while waiting and waiting[0].at <= clock.now():
            arrival = waiting.popleft()
            arrivals[arrival.request.id] = arrival.at
            engine.add(arrival.request)
        latencies |= {e.id: clock.now() - arrivals[e.id] for e in engine.step() if isinstance(e, Done)}
    return latencies


def one_at_a_time(engine: Engine, load: list[Arrival], clock: Clock) -> Latencies:
    """Run one request after the other."""
    return in_batches(engine, load, clock, max_batch=1)


def in_batches(engine: Engine, load: list[Arrival], clock: Clock, max_batch: int = MAX_BATCH) -> Latencies:
    """Run all waiting requests, up to `max_batch` molecules, as one batch; they end together."""
    waiting, latencies = deque(load), {}
    while waiting:
        clock.wait_until(waiting[0].at)
        batch = list(_batch(waiting, clock.now(), max_batch))
        for arrival in batch:
            engine.add(arrival.request)
        while not engine.idle:
            engine.step()
        latencies |= {arrival.request.id: clock.now() - arrival.at for arrival in batch}
    return latencies


def _batch(waiting: deque[Arrival], now: float, max_batch: int) -> Iterator[Arrival]:
    molecules = 0
    while waiting and waiting[0].at <= now and (not molecules or molecules + len(waiting[0].request) <= max_batch):
        molecules += len(waiting[0].request)
        yield waiting.popleft()


def capacity(engine: Engine, seed: int) -> float:
    """Return the requests per second of an engine that is never idle."""
    load = requests(12, 1.0, seed)
    begin = time.process_time()
    for arrival in load:
        engine.add(arrival.request)
    while not engine.idle:
        engine.step()
    return len(load) / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="12 requests, for a look")
    arguments = parser.parse_args()
    count = 12 if arguments.quick else arguments.requests
    torch.set_num_threads(1)
    flow = load(BUNDLED_WEIGHTS, "cuda" if torch.cuda.is_available() else "cpu")
    engine = Engine(flow)
    plain = Engine(flow, replace(EngineConfig.for_device(flow.device), small_credit=0))  # the others favour no request
    for one in (engine, plain):
        list(run(one, EngineSampleRequest(id="warm up", seed=0, n_atoms=(9,))))
    rate = LOAD * capacity(plain, seed=1)
    traffic, crowd = requests(count, rate, seed=2), requests(count // 2 if arguments.quick else CROWD, 1e9, seed=3)
    small = {arrival.request.id for arrival in traffic if len(arrival.request) == 1}
    policies = {
        "continuous": partial(continuous, engine),
        "request at a time": partial(one_at_a_time, plain),
        "batches of requests": partial(in_batches, plain),
    }
    latencies = {name: policy(traffic, Clock(engine.device)) for name, policy in policies.items()}
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(1 if arguments.quick else TURNS):
        for name, policy in policies.items():
            clock = Clock(engine.device)
            policy(crowd, clock)
            seconds[name].append(clock.now())
    molecules = sum(len(arrival.request) for arrival in crowd)
    facts = {name: _summary(latencies[name], small, molecules / float(np.median(seconds[name]))) for name in policies}
    rows = [[name, *(f"{value:.2f}" for value in found.values())] for name, found in facts.items()]
    ours, rivals = facts["continuous"], [facts[name] for name in policies if name != "continuous"]
    gain = min(rival["single p99"] for rival in rivals) / ours["single p99"]
    checks = {
        "p99_5_times_lower": gain >= REQUIRED,
        "throughput_no_lower": ours["molecules/s"] >= 0.98 * max(rival["molecules/s"] for rival in rivals),
    }
    write_results(
        "service",
        f"{count} requests at {LOAD:.0%} of capacity, seconds; p99 of single molecules {gain:.1f} times lower",
        ["policy", *ours],
        rows,
        {
            "requests": count, "single": len(small), "arrivals_per_s": round(rate, 3), "p99_gain": round(gain, 2),
            "ways": facts, "checks": checks,
        },
    )  # fmt: skip


def _summary(latencies: Latencies, small: set[str], throughput: float) -> dict[str, float]:
    every: NDArray[np.float64] = np.array(list(latencies.values()))
    few = np.array([seconds for name, seconds in latencies.items() if name in small])
    return {
        "single p50": round(float(np.quantile(few, 0.5)), 3),
        "single p99": round(float(np.quantile(few, 0.99)), 3),
        "all p50": round(float(np.quantile(every, 0.5)), 3),
        "all p99": round(float(np.quantile(every, 0.99)), 3),
        "molecules/s": round(throughput, 3),
    }


if __name__ == "__main__":
    main()
