"""Callers of a soak test: they wait, disconnect, miss deadlines, send molecules that end the engine, and are killed."""

import asyncio
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

POISON = 29
"""Molecules with this number of atoms end the process of a poisoned engine."""

KNOWN, LARGEST = 12, 9
"""Different requests that are sent again and again, and the atoms of their largest molecules."""

PROMISED = 1e-3
"""The largest difference of a coordinate between two answers to the same request, in angstrom."""

ENGINE_S, CHEMISTRY_S = 60.0, 20.0
"""Mean seconds between two kills of an engine, and of an RDKit process."""

WATER = "3\n\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"

Positions = NDArray[np.float64]


@dataclass
class Outcomes:
    """The outcomes of the requests, the first answers to the known ones, and the largest difference from them."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[tuple[int, int], Positions] = field(default_factory=dict)
    moved: float = 0.0

    def compare(self, seed: int, molecule: dict[str, Any]) -> bool:
        """Return True if a molecule is that of the first answer to its request."""
        rows = [re.split(r" +", line.strip())[1:4] for line in molecule["xyz"].splitlines()[2:]]
        positions = np.array(rows, dtype=float)
        first = self.first.setdefault((seed, molecule["index"]), positions)
        if first.shape != positions.shape:
            return False
        self.moved = max(self.moved, float(np.abs(positions - first).max()))
        return bool(np.abs(positions - first).max() <= PROMISED)


def known_request(seed: int) -> dict[str, Any]:
    """Return one of the requests that are sent again and again."""
    chance = random.Random(seed)
    sizes = [chance.randint(3, LARGEST) for _ in range(chance.choice([1, 1, 2, 8]))]
    tolerance = chance.choice(["draft", "standard", "standard", "precise"])
    return {"n_molecules": len(sizes), "n_atoms": sizes, "seed": seed, "tolerance": tolerance}


async def caller(http: httpx.AsyncClient, outcomes: Outcomes, chance: random.Random, until: float) -> None:
    """Send one request after the other until a time in monotonic seconds."""
    behaviours: list[Callable[..., Awaitable[str]]] = [patient, patient, patient, hang_up, late, scored, with_nll]
    while time.monotonic() < until:
        try:
            outcomes.counts[await chance.choice(behaviours)(http, outcomes, chance)] += 1
        except httpx.HTTPError as error:
            outcomes.counts[f"WRONG {type(error).__name__}"] += 1


async def poisoner(http: httpx.AsyncClient, outcomes: Outcomes, chance: random.Random, until: float) -> None:
    """Send molecules that end the engine, each beside two others, which must come back."""
    while time.monotonic() < until:
        body = {"n_atoms": [5, POISON, 6], "n_molecules": 3, "seed": chance.randrange(10**6), "tolerance": "draft"}
        answer = await _post(http, "/sample", body)
        if isinstance(answer, str):
            outcomes.counts[answer] += 1
            continue
        document = answer.json()
        failed = [(each["index"], each["reason"]) for each in document["failed"]]
        right = failed == [(1, "crash")] and [each["index"] for each in document["molecules"]] == [0, 2]
        outcomes.counts["poison found" if right else f"WRONG poison {failed}"] += 1
        await asyncio.sleep(chance.uniform(5, 20))


async def patient(http: httpx.AsyncClient, outcomes: Outcomes, chance: random.Random) -> str:
    """Wait for the answer, and compare it with the first one to this request."""
    seed = chance.randrange(KNOWN)
    answer = await _post(http, "/sample", known_request(seed))
    if isinstance(answer, str):
        return answer
    molecules = answer.json()["molecules"]
    if [each["index"] for each in molecules] != list(range(len(known_request(seed)["n_atoms"]))):
        return "WRONG: a molecule is missing"
    changed = sum(not outcomes.compare(seed, each) for each in molecules)
    return "WRONG: a molecule has changed" if changed else "complete"


async def scored(http: httpx.AsyncClient, _: Outcomes, chance: random.Random) -> str:
    """Score a molecule of water."""
    body = {"structures": [{"format": "xyz", "data": WATER}], "seed": chance.randrange(100), "tolerance": "draft"}
    answer = await _post(http, "/likelihood", {**body, "draws": 2})
    if isinstance(answer, str):
        return answer
    return "scored" if "nll" in answer.json()["results"][0] else f"WRONG {answer.json()['results'][0]['error']}"


async def with_nll(http: httpx.AsyncClient, _: Outcomes, chance: random.Random) -> str:
    """Ask for a small molecule with its NLL."""
    body = {"n_atoms": chance.randint(3, 6), "with_nll": True, "seed": chance.randrange(10**6), "tolerance": "draft"}
    answer = await _post(http, "/sample", body)
    if isinstance(answer, str):
        return answer
    return "with NLL" if len(answer.json()["molecules"]) == 1 else f"WRONG {answer.json()['failed']}"


async def late(http: httpx.AsyncClient, _: Outcomes, chance: random.Random) -> str:
    """Set a deadline that is most often too short."""
    await http.post("/sample", json={**known_request(chance.randrange(KNOWN)), "deadline_s": 0.3})
    return "late"


async def hang_up(http: httpx.AsyncClient, _: Outcomes, chance: random.Random) -> str:
    """Disconnect after some lines of a stream."""
    headers, lines = {"Accept": "application/x-ndjson"}, chance.randint(0, 8)
    body = {**known_request(chance.randrange(KNOWN)), "frames": 5}
    async with http.stream("POST", "/sample", json=body, headers=headers) as answer:
        async for _line in answer.aiter_lines():
            if (lines := lines - 1) < 0:
                break
    return "hung up"


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response | str:
    """Return the answer, or the outcome where there is none."""
    answer = await http.post(path, json=body)
    if answer.status_code in (429, 503):
        if "Retry-After" not in answer.headers:
            return "WRONG: no Retry-After"
        await asyncio.sleep(min(5, int(answer.headers["Retry-After"])))
        return "refused"
    return answer if answer.status_code == 200 else f"WRONG {answer.status_code}"


async def killed_caller(url: str, outcomes: Outcomes, chance: random.Random, until: float) -> None:
    """Start processes that stream, one after the other, and kill each at a random time."""
    while time.monotonic() < until:
        command = [sys.executable, "-m", "benchmarks.callers", url, str(chance.randrange(KNOWN))]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()  # it has asked
        await asyncio.sleep(chance.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        outcomes.counts["killed caller"] += 1


async def killer(pid: int, outcomes: Outcomes, chance: random.Random, until: float) -> None:
    """Kill engines and RDKit processes of a service, now and then."""
    kills = {"engine": ENGINE_S, "chemistry": CHEMISTRY_S}
    due = {name: time.monotonic() + chance.expovariate(1 / mean) for name, mean in kills.items()}
    while (now := time.monotonic()) < until:
        await asyncio.sleep(0.5)
        for name in [name for name, when in due.items() if when <= now]:
            due[name] = now + chance.expovariate(1 / kills[name])
            if found := [each for each, role in roles(pid).items() if role == name]:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(found), signal.SIGKILL)
                outcomes.counts[f"killed {name}"] += 1


def roles(pid: int) -> dict[int, str]:
    """Return the engines and the RDKit processes of a service.

    RDKit processes are its children. Engines are forked by another child, which holds torch for them.
    """
    found = {}
    for child in _children(pid):
        if (libraries := _maps(child)) and "libtorch_cpu" not in libraries and "rdkit" in libraries:
            found[child] = "chemistry"
        found |= {each: "engine" for each in _children(child) if "libtorch_cpu" in _maps(each)}
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, listed.read_text().split())
    return found


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text().lower()
    except OSError:  # it has just ended
        return ""


def stream(url: str, seed: int) -> None:
    """Send requests and read the answers until the process is killed."""
    with httpx.Client(base_url=url, timeout=120) as http:
        headers = {"Accept": "application/x-ndjson"}
        while True:
            body = {**known_request(seed), "frames": 20}
            with http.stream("POST", "/sample", json=body, headers=headers) as answer:
                print("asked", flush=True)
                for _ in answer.iter_lines():
                    pass


if __name__ == "__main__":
    stream(sys.argv[1], int(sys.argv[2]))
