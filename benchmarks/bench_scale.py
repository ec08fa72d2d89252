"""One engine and two engines in Ray under the same open-loop load, and the overhead of Ray for a request.

    python -m benchmarks.bench_scale        needs the extra `ray` (make test-ray installs it)

Requests arrive by a Poisson process, independent of the answers, at a rate above the capacity of two engines. Each
engine has one thread. The whole application answers, without a network. The processor time is reported beside the
throughput, since a machine with few cores cannot run two engines at full speed. The processor time before the engines
limits the number of GPUs: `paper` estimates this limit.
"""

import argparse
import asyncio
import importlib.util
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import write_results
from enflow.model.checkpoint import load
from enflow.service.api.app import create_app
from enflow.service.client.base import EngineClient
from enflow.service.client.process_client import engine_client
from enflow.service.client.replica_client import ReplicaClient
from enflow.service.settings import BUNDLED_WEIGHTS, Settings
from enflow.service.telemetry import configure_logs

MOLECULES, ATOMS, TOLERANCE = 64, 9, "draft"  # more than a small request, of which few may wait
OVERLOAD = 2.5
"""The rate of arrivals over the capacity of one engine; two engines are overloaded as well."""

TYPICAL, EVALUATIONS = 18, 45
"""Atoms and evaluations of a molecule of QM9 at the standard tolerance, refined four times (weights/qm9: 45.4)."""

SUSTAINED = 10e12
"""Floating-point operations a second of a GPU that the table on paper assumes: a sixth of an H100's float32 peak."""

GPUS = (1, 8, 64)


@asynccontextmanager
async def serving(settings: Settings, client: EngineClient) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of an application around an engine client, without a network."""
    app = create_app(settings, client)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", timeout=600) as http:
            while (await http.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.1)
            yield http


async def ask(http: httpx.AsyncClient, molecules: int, atoms: int, seed: int) -> float:
    """Send a request and return the seconds until the answer."""
    asked = {"n_molecules": molecules, "n_atoms": atoms, "seed": seed, "tolerance": TOLERANCE}
    begin = time.perf_counter()
    (await http.post("/sample", json=asked)).raise_for_status()
    return time.perf_counter() - begin


async def under_load(http: httpx.AsyncClient, arrivals: Sequence[float], engines: Sequence[int]) -> dict[str, float]:
    """Return molecules per second, latencies, and milliseconds of a core per molecule before and in the engines.

    Args:
        engines: process ids of the replicas.
    """
    begin, front, behind = time.perf_counter(), front_seconds(), sum(map(tree_seconds, engines))

    async def one(seed: int, at: float) -> float:
        await asyncio.sleep(begin + at - time.perf_counter())
        return await ask(http, MOLECULES, ATOMS, seed)

    took = await asyncio.gather(*(one(seed, at) for seed, at in enumerate(arrivals)))
    seconds, molecules = time.perf_counter() - begin, MOLECULES * len(arrivals)
    front, behind = front_seconds() - front, sum(map(tree_seconds, engines)) - behind
    return {
        "molecules_per_s": molecules / seconds,
        "p50_s": float(np.quantile(took, 0.5)),
        "p99_s": float(np.quantile(took, 0.99)),
        "front_ms_per_molecule": 1e3 * front / molecules,
        "engine_ms_per_molecule": 1e3 * behind / molecules,
        "cores": (front + behind) / seconds,
    }


def front_seconds() -> float:
    """Return the processor time of this process and of its chemistry processes, without the engines."""
    chemistry = [child.pid for child in multiprocessing.active_children() if child.pid]
    return time.process_time() + sum(map(tree_seconds, chemistry))


def tree_seconds(pid: int) -> float:
    """Return the processor time of a process and of its descendants."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = [int(each) for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()]
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(tree_seconds, children))


async def overhead(plain: httpx.AsyncClient, ray: httpx.AsyncClient, rounds: int) -> dict[str, float]:
    """Return the milliseconds of a request for one small molecule, without and with Ray in turn."""
    took: dict[str, list[float]] = {"plain": [], "ray": []}
    for seed in range(-3, rounds):
        for name, http in (("plain", plain), ("ray", ray)):
            seconds = await ask(http, 1, 3, seed + 3)
            if seed >= 0:
                took[name].append(1e3 * seconds)
    found = {f"{name}_ms": float(np.median(times)) for name, times in took.items()}
    more = np.array(took["ray"]) - np.array(took["plain"])
    low, high = np.quantile(more, [0.25, 0.75])
    return {**found, "more_ms": float(np.median(more)), "more_ms_low": float(low), "more_ms_high": float(high)}


def paper(front_ms: float) -> dict[str, Any]:
    """Estimate the molecules per second of several GPUs, and the cores that the application needs for them."""
    flow = load(BUNDLED_WEIGHTS)
    t, x, h = torch.ones(1), torch.randn(1, TYPICAL, 3), torch.randn(1, TYPICAL, 5)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        flow.dynamics(t, x, h, torch.ones(1, TYPICAL, dtype=torch.bool))
    a_gpu = SUSTAINED / (EVALUATIONS * counter.get_total_flops())
    return {
        "mflop_per_evaluation": counter.get_total_flops() / 1e6,
        "sustained_tflops_assumed": SUSTAINED / 1e12,
        "gpus": [{"gpus": n, "molecules_per_s": n * a_gpu, "front_cores": n * a_gpu * front_ms / 1e3} for n in GPUS],
    }


async def measure(count: int) -> dict[str, Any]:
    """Measure everything that needs a running service."""
    from ray import serve  # the benchmark stands outside the package whose one home of Ray is ray_app

    from enflow.service import ray_app

    settings = Settings(device="cpu", threads=1, requests_per_minute=10**6, chemistry={"processes": 1})
    pool = ray_app.RayReplicaPool(await asyncio.to_thread(ray_app.start_engines, settings, 1), str(settings.weights))
    found: dict[str, Any] = {}
    async with serving(settings, ReplicaClient(pool)) as ray:
        async with serving(settings, engine_client(settings)) as plain:
            found["overhead"] = await overhead(plain, ray, rounds=count)
        begin = time.perf_counter()
        await asyncio.gather(*(ask(ray, MOLECULES, ATOMS, seed) for seed in range(8)))
        rate = OVERLOAD * 8 / (time.perf_counter() - begin)
        arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, count)).tolist()
        found["offered_molecules_per_s"] = MOLECULES * rate
        found["1 replica"] = await under_load(ray, arrivals, [status.pid for status in await pool.statuses()])
    two = ray_app.RayReplicaPool(await asyncio.to_thread(ray_app.start_engines, settings, 2), str(settings.weights))
    async with serving(settings, ReplicaClient(two)) as ray:
        while len(await two.statuses()) < 2:
            await asyncio.sleep(0.1)
        found["2 replicas"] = await under_load(ray, arrivals, [status.pid for status in await two.statuses()])
    await asyncio.to_thread(serve.delete, ray_app.APPLICATION)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="12 requests, for a look")
    arguments = parser.parse_args()
    if not importlib.util.find_spec("ray"):
        print("bench_scale: Ray is not installed (make test-ray installs it)")
        return
    from enflow.service import ray_app

    configure_logs("error")
    torch.set_num_threads(1)
    with ray_app.ray_cluster():
        found = asyncio.run(measure(12 if arguments.quick else arguments.requests))
    one, two = found["1 replica"], found["2 replicas"]
    gain = two["molecules_per_s"] / one["molecules_per_s"]
    on_paper = paper(two["front_ms_per_molecule"])
    rows = [[name, *(f"{value:.2f}" for value in found[name].values())] for name in ("1 replica", "2 replicas")]
    more = found["overhead"]
    title = (
        f"{found['offered_molecules_per_s']:.1f} molecules/s offered; two replicas do {gain:.2f} times as many as one "
        f"with {two['cores'] / one['cores']:.2f} times the processor; "
        f"Ray adds {more['more_ms']:.1f} ms to a request of {more['plain_ms']:.1f} ms"
    )
    write_results("scale", title, ["", *one], rows, {"gain": gain, **found, "paper": on_paper})
    for each in on_paper["gpus"]:
        print("{gpus} GPUs: {molecules_per_s:.0f} molecules/s, {front_cores:.1f} cores before them".format(**each))


if __name__ == "__main__":
    main()
