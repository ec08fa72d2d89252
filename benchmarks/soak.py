"""A soak: callers that come, stream, hang up, miss deadlines and are killed, for minutes; memory must stay flat.

    python -m benchmarks.soak --minutes 10

The whole service runs in a process of its own, the callers speak HTTP to it. Then the same with an engine that leaks,
for a tenth of the time: a watch that does not bark at that is worth nothing.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.measure import write_results
from enflow.service.api.app import create_app
from enflow.service.api.server import Server
from enflow.service.client.process_client import EngineSpec, ProcessClient, RestartPolicy
from enflow.service.engine.core import Engine, from_weights
from enflow.service.protocol.events import Event
from enflow.service.settings import BUNDLED_WEIGHTS, Settings

CALLERS, KILLED = 5, 2
"""Callers that end by themselves, and such as are killed while they read, again and again."""
ALLOWED = 10.0
"""Megabytes a minute: below the noise of an allocator, far below what a lost molecule a second would cost."""
SAMPLE_S = 0.5
PAGE = resource.getpagesize()


@dataclass
class Watch:
    """Memory of the service's process and of those it started, over time, and what became of the requests."""

    seconds: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def growth(self, memory: Sequence[float]) -> float:
        """Megabytes a minute over the second half, as the median slope between all pairs of moments (Theil, Sen)."""
        half = len(self.seconds) // 2
        t, m = np.array(self.seconds[half:]), np.array(memory[half:])
        first, second = np.triu_indices(len(t), 1)
        return float(60 * np.median((m[second] - m[first]) / (t[second] - t[first])))

    @property
    def flat(self) -> bool:
        """Whether neither side grows."""
        return max(self.growth(self.service), self.growth(self.engine)) < ALLOWED

    def look(self, pid: int, seconds: float) -> None:
        """Note the memory of a process, and of all its descendants together."""
        self.seconds.append(seconds)
        self.service.append(_resident(pid))
        self.engine.append(sum(_resident(child) for child in _descendants(pid)))


def leaky(weights: str) -> Engine:
    """An engine that keeps 2 MB of every step."""
    engine, kept = from_weights(weights, "cpu", threads=1), []
    step = engine.step

    def leaking() -> list[Event]:
        kept.append(np.random.default_rng(len(kept)).random(250_000))
        return step()

    engine.step = leaking  # type: ignore[method-assign]
    return engine


def serve(spec: EngineSpec, port: int) -> None:
    """The service around an engine; target of a process."""
    settings = Settings(port=port, log_level="warning")
    Server(create_app(settings, ProcessClient(spec, RestartPolicy(queue_s=120.0))), settings).run()


async def caller(http: httpx.AsyncClient, watch: Watch, number: int, until: float) -> None:
    """One request after the other, each in a mood of its own."""
    chance = random.Random(number)
    while time.monotonic() < until:
        mood = chance.choice(["patient", "patient", "hangs up", "late"])
        request = _request(chance) | ({"deadline_s": 0.3} if mood == "late" else {})
        try:
            watch.ends[await (_hang_up if mood == "hangs up" else _wait)(http, request, mood, chance)] += 1
        except httpx.HTTPError as error:
            watch.ends[f"WRONG {type(error).__name__}"] += 1


def _request(chance: random.Random) -> dict[str, Any]:
    sizes = [chance.randint(3, 9) for _ in range(chance.choice([1, 1, 2, 8]))]
    tolerance = chance.choice(["draft", "standard"])
    return {"n_molecules": len(sizes), "n_atoms": sizes, "seed": chance.randrange(10**6), "tolerance": tolerance}


async def _wait(http: httpx.AsyncClient, request: dict[str, Any], mood: str, _: random.Random) -> str:
    answer = await http.post("/sample", json=request)
    if answer.status_code in (429, 503):
        await asyncio.sleep(0.5)
        return "refused"
    if mood == "late":
        return "late"
    found = sorted(molecule["index"] for molecule in answer.json().get("molecules", []))
    right = answer.status_code == 200 and found == list(range(request["n_molecules"]))
    return "complete" if right else f"WRONG {answer.status_code}"


async def _hang_up(http: httpx.AsyncClient, request: dict[str, Any], _: str, chance: random.Random) -> str:
    headers, lines = {"Accept": "application/x-ndjson"}, chance.randint(0, 8)
    async with http.stream("POST", "/sample", json=request | {"frames": 5}, headers=headers) as answer:
        async for _line in answer.aiter_lines():
            if (lines := lines - 1) < 0:
                break
    return "hung up"


async def killed(url: str, watch: Watch, number: int, until: float) -> None:
    """Processes that stream, one after the other, each killed at a random moment."""
    chance = random.Random(1000 + number)
    while time.monotonic() < until:
        command = [sys.executable, "-m", "benchmarks.soak", "--stream", url, "--seed", str(chance.randrange(10**6))]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()  # it has asked
        await asyncio.sleep(chance.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        watch.ends["killed"] += 1


def stream(url: str, seed: int) -> None:
    """Ask, and read what comes, for ever: for `killed`."""
    chance, headers = random.Random(seed), {"Accept": "application/x-ndjson"}
    with httpx.Client(base_url=url, timeout=120) as http:
        while True:
            with http.stream("POST", "/sample", json=_request(chance) | {"frames": 20}, headers=headers) as answer:
                print("asked", flush=True)
                for _ in answer.iter_lines():
                    pass


async def soak(spec: EngineSpec, minutes: float) -> Watch:
    """Traffic for so long, then what was seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(spec, port))
    process.start()
    assert process.pid is not None
    watch, url = Watch(), f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        while not await _ready(http):
            await asyncio.sleep(0.2)
        begin = time.monotonic()
        until = begin + 60 * minutes
        tasks = [asyncio.create_task(caller(http, watch, n, until)) for n in range(CALLERS)]
        tasks += [asyncio.create_task(killed(url, watch, n, until)) for n in range(KILLED)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(SAMPLE_S)
            watch.look(process.pid, time.monotonic() - begin)
        await asyncio.gather(*tasks)
        if await _busy(http):
            watch.ends["WRONG: rows left on the device"] += 1
    process.terminate()
    process.join()
    return watch


async def _ready(http: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get("/health/ready")).status_code == 200
    return False


async def _busy(http: httpx.AsyncClient) -> bool:
    """Whether anything still runs some seconds after the last caller has gone."""
    for _ in range(100):
        lines = (await http.get("/metrics")).text.splitlines()
        if not any(line.startswith("enflow_engine_works{") and float(line.split()[1]) for line in lines):
            return False
        await asyncio.sleep(0.1)
    return True


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
    except OSError:  # it has just ended
        return 0.0


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, listed.read_text().split())
    return children + [below for child in children for below in _descendants(child)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--stream", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        stream(arguments.stream, arguments.seed)
    weights = {"weights": str(BUNDLED_WEIGHTS)}
    honest = EngineSpec("enflow.service.engine.core:from_weights", {**weights, "device": "cpu", "threads": 1})
    leaking, minutes = EngineSpec("benchmarks.soak:leaky", weights), arguments.minutes
    seen = {
        "engine": asyncio.run(soak(honest, minutes)),
        "leaking control": asyncio.run(soak(leaking, max(1.0, minutes / 10))),
    }
    facts = {
        name: {
            "minutes": round(watch.seconds[-1] / 60, 1),
            "service_mb_per_min": round(watch.growth(watch.service), 2),
            "engine_mb_per_min": round(watch.growth(watch.engine), 2),
            "service_mb": round(watch.service[-1]),
            "engine_mb": round(watch.engine[-1]),
            "flat": watch.flat,
            "requests": dict(sorted(watch.ends.items())),
        }
        for name, watch in seen.items()
    }
    wrong = any(end.startswith("WRONG") for end in seen["engine"].ends)
    passed = seen["engine"].flat and not seen["leaking control"].flat and not wrong
    rows = [[name, *(json.dumps(value) for value in found.values())] for name, found in facts.items()]
    title = f"Soak: {'passed' if passed else 'FAILED'}"
    write_results("soak", title, ["engine", *facts["engine"]], rows, {"passed": passed, **facts})


if __name__ == "__main__":
    main()
