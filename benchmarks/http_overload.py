"""Overload over HTTP: the waits of single molecules, and the truth of Retry-After, at a multiple of the capacity.

    python -m benchmarks.http_overload --load 1.5 --seconds 240

The whole service runs as a user starts it, and 20 clients send the requests of `bench_overload`, each from an address
of its own. The capacity is measured first: molecules of one client, as many at once as a request may hold. A client
that is refused comes back once after Retry-After. The callers share the machine with the service.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from benchmarks.bench_front import markdown, wait_until_ready
from benchmarks.bench_overload import REQUIRED_S, STEPS, Arrival, traffic
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.config import TOLERANCES
from enflow.service.engine.cost_model import STAGES

CLIENTS = 20
PROBE = tuple(int(n) for n in np.random.default_rng(0).normal(18, 3, 96).round().clip(3, 29))
"""The sizes of the molecules by which the capacity is measured."""

NAMES = {value: name for name, value in TOLERANCES.items()}


@dataclass
class Waits:
    """The seconds of admitted requests, what became of refused ones, and all statuses.

    Attributes:
        singles, others: seconds from the first or the repeated sending to the whole answer.
        told: Retry-After of every refusal in seconds; None where it is missing.
        repeated: True for each repeated request that was admitted.
        statuses: number of answers by status, or of failed connections by name.
    """

    singles: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    told: list[int | None] = field(default_factory=list)
    repeated: list[bool] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, float]:
        """Return the figures of the run."""
        told = [each for each in self.told if each is not None]
        quantiles = {
            f"{name} {label}": round(float(np.quantile(seconds, share)), 2)
            for name, seconds in (("single", self.singles), ("others", self.others))
            for label, share in (("p50", 0.5), ("p99", 0.99))
        }
        return {
            "requests": sum(self.statuses.values()) - len(self.repeated),
            **quantiles,
            "refused": len(self.told),
            "without Retry-After": len(self.told) - len(told),
            "largest Retry-After": max(told, default=0),
            "came back": len(self.repeated),
            "admitted when told": sum(self.repeated),
        }


async def send(http: httpx.AsyncClient, arrival: Arrival, begin: float, waits: Waits) -> None:
    """Send a request at its time; come back once if it is refused."""
    sizes = arrival.request.n_atoms
    body = {"n_molecules": len(sizes), "n_atoms": sizes, "seed": arrival.number, "refinements": 0}
    body["tolerance"] = NAMES[arrival.request.rtol]
    await asyncio.sleep(begin + arrival.at - time.monotonic())
    answer, seconds = await _ask(http, body, waits)
    if answer is not None and answer.status_code in (429, 503):
        after = answer.headers.get("Retry-After")
        waits.told.append(None if after is None else int(after))
        await asyncio.sleep(float(after or 1))
        answer, seconds = await _ask(http, body, waits)
        waits.repeated.append(answer is not None and answer.status_code == 200)
    if answer is not None and answer.status_code == 200:
        found = answer.json()
        if len(found["molecules"]) + len(found["failed"]) != len(sizes):
            waits.statuses["incomplete"] += 1
        (waits.singles if len(sizes) == 1 else waits.others).append(seconds)


async def _ask(http: httpx.AsyncClient, body: Mapping[str, Any], waits: Waits) -> tuple[httpx.Response | None, float]:
    begin = time.monotonic()
    try:
        answer = await http.post("/sample", json=body)
    except httpx.HTTPError as error:
        waits.statuses[type(error).__name__] += 1
        return None, 0.0
    waits.statuses[str(answer.status_code)] += 1
    return answer, time.monotonic() - begin


async def overload(url: str, load: float, seconds: float) -> tuple[float, Waits]:
    """Return the molecules per second of the capacity, and the waits at a multiple of it."""
    waits = Waits()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(url, number)) for number in range(CLIENTS)]
        await clients[0].post("/sample", json={"n_molecules": 8, "seed": 0, "refinements": 0})  # it warms the engine
        begin = time.monotonic()
        probe = {"n_molecules": len(PROBE), "n_atoms": PROBE, "seed": 1, "refinements": 0}
        await clients[0].post("/sample", json=probe)
        probed = time.monotonic() - begin
        rate = sum(n**2 for n in PROBE) * STAGES * STEPS["standard"] / probed
        begin = time.monotonic()
        arrivals = [each for each in traffic(load, CLIENTS, rate) if each.at < seconds]
        await asyncio.gather(*(send(clients[_number(each)], each, begin, waits) for each in arrivals))
    return len(PROBE) / probed, waits


def _client(url: str, number: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number + 2}", limits=limits)
    return httpx.AsyncClient(base_url=url, transport=transport, timeout=None)


def _number(arrival: Arrival) -> int:
    return int(arrival.request.client.split()[1])


def measured(load: float, seconds: float) -> tuple[float, Waits]:
    """Start the service, and return the capacity and the waits."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        settings = {"JOBS_URL": f"sqlite:///{folder}/jobs.sqlite", "REQUESTS_PER_MINUTE": "100000", "COMPILE": "0"}
        environment = {**os.environ, **{f"ENFLOW_{name}": value for name, value in settings.items()}}
        command = [sys.executable, "-m", "enflow.service", "serve", "--port", str(port), "--log-level", "error"]
        service = subprocess.Popen(command, env=environment)
        try:
            wait_until_ready(port, service)
            return asyncio.run(overload(f"http://127.0.0.1:{port}", load, seconds))
        finally:
            service.terminate()
            service.wait()


def section(load: float, seconds: float, capacity: float, facts: Mapping[str, float]) -> str:
    """Return the table of the documentation."""
    told = f"{facts['admitted when told']:.0f} of {facts['came back']:.0f}"
    cells: Sequence[object] = [
        f"{load} x, {seconds:.0f} s", f"{capacity:.1f}", facts["requests"],
        *(facts[name] for name in ("single p50", "single p99", "others p50", "others p99", "refused")),
        facts["largest Retry-After"], told,
    ]  # fmt: skip
    heads = ["load", "molecules/s", "requests", "one: p50, s", "p99", "others: p50", "p99", "refused", "Retry-After"]
    heads += ["admitted then"]
    return markdown(heads, [[str(cell) for cell in cells]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=1.5)
    parser.add_argument("--seconds", type=float, default=240.0)
    arguments = parser.parse_args()
    capacity, waits = measured(arguments.load, arguments.seconds)
    facts = waits.facts()
    checks = {
        "singles_below_5_s": facts["single p99"] < REQUIRED_S,
        "retry_after_on_every_refusal": facts["without Retry-After"] == 0,
        "retry_after_is_kept": facts["admitted when told"] >= 0.99 * facts["came back"],
        "nothing_lost": set(waits.statuses) <= {"200", "429", "503"},
    }
    rows = [[name, str(value)] for name, value in facts.items()]
    found = {"load": arguments.load, "seconds": arguments.seconds, "molecules_per_s": round(capacity, 2)}
    found |= {"statuses": dict(waits.statuses), "waits": facts, "checks": checks}
    write_results("http_overload", "Overload over HTTP", ["figure", "value"], rows, found)
    table = section(arguments.load, arguments.seconds, capacity, facts)
    write_section(DOCS / "performance.md", "http overload", table)


if __name__ == "__main__":
    main()
