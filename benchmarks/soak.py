"""A soak test: callers wait, disconnect, miss deadlines and are killed, for minutes; nothing is lost and nothing grows.

    python -m benchmarks.soak --minutes 10

The service runs in a process of its own, and the callers use HTTP. There are three runs. In one of them nothing
breaks, and the memory must not grow. In another one molecules end the engine, and engines and RDKit processes are
killed: every answer must be complete, and every repeated request must give the same molecules. The last run, of a
tenth of the time, has an engine that leaks memory, and must be found to grow.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.callers import Outcomes, caller, killed_caller, killer, poisoner, roles
from enflow.service.api.app import create_app
from enflow.service.api.server import Server
from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.process_client import ProcessClient
from enflow.service.settings import BUNDLED_WEIGHTS, Settings

CALLERS, KILLED = 5, 2
"""Callers that end by themselves, and callers that are killed while they read."""
ALLOWED = 10.0
"""Megabytes a minute: below the noise of an allocator, far below what a lost molecule a second would cost."""
SAMPLE_S = 1.0
PAGE = resource.getpagesize()


@dataclass
class Watch:
    """The memory of the processes over time, in megabytes, and the outcomes of the requests.

    Attributes:
        seconds: the times.
        service, engine, chemistry: the process of HTTP, the engine, and the RDKit processes together.
        outcomes: of the requests.
    """

    seconds: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    chemistry: list[float] = field(default_factory=list)
    outcomes: Outcomes = field(default_factory=Outcomes)

    def growth(self, memory: Sequence[float]) -> float:
        """Return megabytes per minute over the second half, by the Theil-Sen estimator."""
        half = len(self.seconds) // 2
        t, m = np.array(self.seconds[half:]), np.array(memory[half:])
        first, second = np.triu_indices(len(t), 1)
        return float(60 * np.median((m[second] - m[first]) / (t[second] - t[first])))

    def look(self, pid: int, seconds: float) -> None:
        """Record the memory of a process, of its engine, and of its RDKit processes."""
        found = [(role, _resident(child)) for child, role in roles(pid).items()]
        self.seconds.append(seconds)
        self.service.append(_resident(pid))
        self.engine.append(sum(memory for name, memory in found if name == "engine"))
        self.chemistry.append(sum(memory for name, memory in found if name == "chemistry"))

    def facts(self) -> dict[str, Any]:
        """Return the figures of the run."""
        fifths = [int(share * (len(self.seconds) - 1)) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
        return {
            "minutes": round(self.seconds[-1] / 60, 1),
            "service_mb_per_min": round(self.growth(self.service), 2),
            "engine_mb_per_min": round(self.growth(self.engine), 2),
            "service_mb": [round(self.service[i]) for i in fifths],
            "engine_mb": [round(self.engine[i]) for i in fifths],
            "chemistry_mb": [round(self.chemistry[i]) for i in fifths],
            "moved_angstrom": round(self.outcomes.moved, 6),
            "requests": dict(sorted(self.outcomes.counts.items())),
        }


class ForkingClient(ProcessClient):
    """A client whose workers begin with torch loaded, so that most of the time is not spent on their starts."""

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(["enflow.service.engine.loading"])


def serve(spec: EngineSpec, port: int, folder: Path) -> None:
    """Run the service around an engine, with its only model and its jobs in a folder; the target of a process."""
    settings = Settings(
        weights=folder / "weights",
        jobs_url=f"sqlite:///{folder}/jobs.sqlite",
        port=port,
        log_level="error",
        requests_per_minute=100_000,
    )
    config = ClientConfig(queue_s=120.0, start_s=600.0)
    Server(create_app(settings, ForkingClient(spec, config)), settings).run()


async def soak(target: str, folder: Path, minutes: float, *, faults: bool = False) -> Watch:
    """Run the callers of a service for some minutes and return the record.

    Args:
        target: the function that makes the engine.
        folder: holds the folder of the weights.
        minutes: the time.
        faults: send molecules that end the engine, and kill processes of the service.
    """
    spec = EngineSpec(target, {"weights": str(folder / "weights")})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(spec, port, folder))
    process.start()
    assert process.pid is not None
    watch, url = Watch(), f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        while not await _ready(http):
            await asyncio.sleep(0.2)
        begin = time.monotonic()
        until, seen = begin + 60 * minutes, watch.outcomes
        runs = [caller(http, seen, random.Random(n), until) for n in range(CALLERS)]
        runs += [killed_caller(url, seen, random.Random(1000 + n), until) for n in range(KILLED)]
        if faults:
            runs += [poisoner(http, seen, random.Random(1), until), killer(process.pid, seen, random.Random(2), until)]
        tasks = [asyncio.create_task(run) for run in runs]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(SAMPLE_S)
            watch.look(process.pid, time.monotonic() - begin)
        await asyncio.gather(*tasks)
        if await _busy(http):
            seen.counts["WRONG: rows left on the device"] += 1
    process.terminate()
    process.join()
    print(json.dumps(watch.facts()), flush=True)
    return watch


async def _ready(http: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get("/health/ready")).status_code == 200
    return False


async def _busy(http: httpx.AsyncClient) -> bool:
    """Return True if requests still run a minute after the last caller has ended."""
    for _ in range(600):
        lines = (await http.get("/metrics")).text.splitlines()
        if not any(line.startswith("enflow_engine_requests{") and float(line.split()[1]) for line in lines):
            return False
        await asyncio.sleep(0.1)
    return True


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
    except OSError:  # it has just ended
        return 0.0


def section(facts: dict[str, dict[str, Any]]) -> str:
    """Return the tables of the documentation."""
    calm, faults = facts["calm"], facts["faults"]
    lines = ["| memory in MB, after a fifth to all of the time | nothing breaks | faults |", "|---|---|---|"]
    for name, key in (("HTTP", "service_mb"), ("engine", "engine_mb"), ("RDKit, two processes", "chemistry_mb")):
        lines.append(f"| {name} | {', '.join(map(str, calm[key]))} | {', '.join(map(str, faults[key]))} |")
    lines += ["", "| outcome | nothing breaks | faults |", "|---|---|---|"]
    for name in sorted(calm["requests"].keys() | faults["requests"].keys()):
        lines.append(f"| {name} | {calm['requests'].get(name, 0)} | {faults['requests'].get(name, 0)} |")
    moved = "| largest difference between two answers to one request, angstrom |"
    lines.append(f"{moved} {calm['moved_angstrom']:.0e} | {faults['moved_angstrom']:.0e} |")
    return "\n".join(lines)


def main() -> None:
    # Every process that the service starts imports this module, and RDKit's need no torch.
    from benchmarks.measure import DOCS, write_results, write_section

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--weights", type=Path, default=BUNDLED_WEIGHTS)
    arguments = parser.parse_args()
    minutes = arguments.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(arguments.weights, folder / "weights")
        faults = asyncio.run(soak("benchmarks.faulty_engines:poisoned", folder, minutes, faults=True))
        calm = asyncio.run(soak("benchmarks.faulty_engines:honest", folder, minutes))
        leaking = asyncio.run(soak("benchmarks.faulty_engines:leaky", folder, max(1.0, minutes / 10)))
    checks = {
        "flat": max(calm.growth(calm.service), calm.growth(calm.engine), faults.growth(faults.service)) < ALLOWED,
        "leak_found": leaking.growth(leaking.engine) > ALLOWED,
        "no_wrong_answer": not any(end.startswith("WRONG") for each in (calm, faults) for end in each.outcomes.counts),
    }
    facts = {"calm": calm.facts(), "faults": faults.facts(), "leaking control": leaking.facts()}
    rows = [[name, *(json.dumps(value) for value in found.values())] for name, found in facts.items()]
    title = f"Soak: {'passed' if all(checks.values()) else 'FAILED'}"
    write_results("soak", title, ["run", *facts["calm"]], rows, {"checks": checks, **facts})
    write_section(DOCS / "operations.md", "soak", section(facts))


if __name__ == "__main__":
    main()
