"""Overload: the waits of single molecules, and the truth of Retry-After, at several times the capacity.

The scheduler and the admission control are those of the service. The device is a cost table, and the clock is that of
the simulation, so that other programs on the machine change nothing. Half of the requests are for one molecule, the
others for 2 to 64, at draft to precise tolerance. A client that is refused comes back once after Retry-After. Beside it
stand the waits of the same requests in the order of their arrival, one after the other, none refused.

    python -m benchmarks.bench_overload
"""

import heapq
import itertools
from dataclasses import dataclass, field

import numpy as np

from benchmarks.measure import write_results
from enflow.model.config import TOLERANCES
from enflow.service.client.admission import AdmissionController
from enflow.service.engine.batch_key import BatchKey
from enflow.service.engine.config import LANES, EngineConfig
from enflow.service.engine.cost_model import SMALL_REQUEST, STAGES, BatchBudget, CostTable
from enflow.service.engine.queues import Row
from enflow.service.engine.scheduler import Scheduler
from enflow.service.problems import retry_after
from enflow.service.protocol.requests import EngineSampleRequest, sample_costs
from enflow.service.protocol.status import Overloaded

CONFIG = EngineConfig()
EVALUATION_S, LAUNCH_S = 2.6e-3, 3e-3
"""Seconds of an evaluation for 18 atoms in a full batch, and of a launch: one core of a server (`bench_engine`)."""

STEPS = {"draft": 2, "standard": 5, "precise": 16}
"""Steps of the engine for a molecule, of six evaluations each."""

SECONDS = 240.0
LOADS = ((0.7, 20), (1.5, 20), (2.5, 20), (2.5, 1), (4.0, 20))
"""Arrivals over capacity, and the number of clients."""

REQUIRED_S = 5.0


class SimulatedEngine:
    """The scheduler and the admission control of an engine whose steps take the seconds of a cost table."""

    def __init__(self) -> None:
        seconds = tuple(EVALUATION_S * (size / 18) ** 2 for size in CONFIG.sizes)
        self.costs, self.now = CostTable(tuple(CONFIG.sizes), seconds, LAUNCH_S), 0.0
        self._budget = BatchBudget(CONFIG.pairs, 5, self.costs)
        credit = CONFIG.small_credit * self._budget.cost(BatchKey("sample", "adams", CONFIG.middle_size))
        limits = self._budget.max_rows, CONFIG.slots, credit, self._budget.short_step_rows
        self._scheduler: Scheduler[Row] = Scheduler(LANES, *limits)
        self._admission = AdmissionController(600.0, 0.5, rate=self.costs.rate, clock=lambda: self.now)
        self._steps: dict[Row, int] = {}
        self._left: dict[str, int] = {}

    def submit(self, request: EngineSampleRequest, steps: int) -> None:
        """Admit a request and add its rows."""
        self._admission.admit(request)
        keys = self._keys(request)
        rows = [Row(request.id, i, "sample", key, self._budget.cost(key)) for i, key in enumerate(keys)]
        self._steps |= dict.fromkeys(rows, steps)
        self._left[request.id] = len(rows)
        work = sum(sample_costs(request))
        self._scheduler.add(request.id, rows, work=work / self.costs.rate, small=work <= SMALL_REQUEST)

    def step(self) -> list[str]:
        """Run a step and return the requests that it finished."""
        rows = self._scheduler.schedule()
        self.now += max(STAGES * LAUNCH_S, sum(row.cost for row in rows))
        return [row.request_id for row in rows if self._advance(row)]

    def seconds(self, request: EngineSampleRequest, steps: int) -> float:
        """Return the seconds that the device needs for a request in full steps."""
        return steps * sum(self._budget.cost(key) for key in self._keys(request))

    @property
    def idle(self) -> bool:
        """True if there is no request."""
        return not self._left

    def _keys(self, request: EngineSampleRequest) -> list[BatchKey]:
        return [BatchKey("sample", "adams", self.costs.size(n or 18)) for n in request.n_atoms]

    def _advance(self, row: Row) -> bool:
        self._steps[row] -= 1
        if self._steps[row]:
            return False
        self._scheduler.finish(row)
        self._admission.sample_finished(row.request_id)
        self._left[row.request_id] -= 1
        if self._left[row.request_id]:
            return False
        self._admission.release(row.request_id)
        del self._left[row.request_id]
        return True


@dataclass(order=True)
class Arrival:
    """A request and the time of its arrival; `repeated` after a refusal."""

    at: float
    number: int
    request: EngineSampleRequest = field(compare=False)
    steps: int = field(compare=False)
    repeated: bool = field(default=False, compare=False)


def traffic(load: float, clients: int, rate: float, seed: int = 0) -> list[Arrival]:
    """Return arrivals by a Poisson process at a multiple of the capacity."""
    chance = np.random.default_rng(seed)
    names = chance.choice(list(STEPS), 4000, p=[0.4, 0.4, 0.2])
    counts = np.where(chance.random(4000) < 0.5, 1, np.exp2(chance.uniform(1, 6, 4000)).astype(int))
    sizes = [tuple(int(n) for n in np.clip(chance.normal(18, 3, count).round(), 3, 29)) for count in counts]
    work = [sum(n**2 for n in each) * STAGES * STEPS[name] for name, each in zip(names, sizes, strict=True)]
    times = np.cumsum(chance.exponential(float(np.mean(work)) / rate / load, 4000))
    requests = [
        EngineSampleRequest(
            id=f"{i}", seed=i, n_atoms=sizes[i], rtol=TOLERANCES[name], client=f"client {chance.integers(clients)}"
        )
        for i, name in enumerate(names)
    ]
    every = (Arrival(float(times[i]), i, requests[i], STEPS[names[i]]) for i in range(4000))
    return list(itertools.takewhile(lambda arrival: arrival.at < SECONDS, every))


def overload(load: float, clients: int) -> dict[str, float]:
    """Return the waits of admitted requests in seconds, and the share of repeated requests that were admitted."""
    engine = SimulatedEngine()
    waiting = traffic(load, clients, engine.costs.rate)
    numbers, total = itertools.count(len(waiting)), len(waiting)
    admitted: dict[str, Arrival] = {}
    singles: list[float] = []
    others: list[float] = []
    repeated: list[bool] = []
    while waiting or not engine.idle:
        if engine.idle:
            engine.now = max(engine.now, waiting[0].at)
        while waiting and waiting[0].at <= engine.now:
            arrival = heapq.heappop(waiting)
            wait = _submit(engine, arrival)
            if arrival.repeated:
                repeated.append(wait is None)
            elif wait is not None:
                again = Arrival(engine.now + wait, next(numbers), arrival.request, arrival.steps, repeated=True)
                heapq.heappush(waiting, again)
            if wait is None:
                admitted[arrival.request.id] = arrival
        for name in () if engine.idle else engine.step():
            seconds = engine.now - admitted[name].at
            (singles if len(admitted[name].request) == 1 else others).append(seconds)
    facts = {"single p50": float(np.quantile(singles, 0.5)), "single p99": float(np.quantile(singles, 0.99))}
    facts |= {"others p50": float(np.quantile(others, 0.5)), "all p99": float(np.quantile(singles + others, 0.99))}
    facts |= {"refused": len(repeated) / total, "admitted when told": float(np.mean(repeated)) if repeated else 1.0}
    return facts | in_order_of_arrival(load, clients)


def in_order_of_arrival(load: float, clients: int) -> dict[str, float]:
    """Return the waits in seconds if each request runs when those before it have ended, and none is refused."""
    engine = SimulatedEngine()
    end, every, others = 0.0, list[float](), list[float]()
    for arrival in traffic(load, clients, engine.costs.rate):
        end = max(end, arrival.at) + engine.seconds(arrival.request, arrival.steps)
        every.append(end - arrival.at)
        others += every[-1:] if len(arrival.request) > 1 else []
    p50, p99 = float(np.quantile(others, 0.5)), float(np.quantile(every, 0.99))
    return {"arrival order: others p50": p50, "arrival order: all p99": p99}


def _submit(engine: SimulatedEngine, arrival: Arrival) -> int | None:
    """Return None, or the Retry-After of a refusal."""
    try:
        engine.submit(arrival.request, arrival.steps)
    except Overloaded as full:
        return int(retry_after(full.retry_after)["Retry-After"])
    return None


def main() -> None:
    found = {f"{load} x, {clients} clients": overload(load, clients) for load, clients in LOADS}
    rows = [[name, *(f"{value:.2f}" for value in facts.values())] for name, facts in found.items()]
    checks = {
        "singles_below_5_s": all(facts["single p99"] < REQUIRED_S for facts in found.values()),
        "retry_after_is_kept": all(facts["admitted when told"] > 0.99 for facts in found.values()),
    }
    columns = ["load", *next(iter(found.values()))]
    write_results("overload", "Overload, seconds and shares", columns, rows, {"loads": found, "checks": checks})


if __name__ == "__main__":
    main()
