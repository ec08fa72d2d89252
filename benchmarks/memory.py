"""The memory of each process of `enflow serve`: at the start, and after requests of different kinds.

    python -m benchmarks.memory                    also writes the table in docs/operations.md
    python -m benchmarks.memory --plateau 5        an engine alone, for five minutes of batches of all shapes

The resident memory (RSS) counts the libraries in each process; the private part is what a process adds to them. The
values are read two seconds after the last answer.
"""

import argparse
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench_front import children, markdown, wait_until_ready
from benchmarks.measure import DOCS, write_results, write_section

QUIET_S = 2.0
"""Seconds between the last answer and the reading."""

PARTS = 8
"""Readings of an engine that runs for minutes."""

PROCESSES = ("HTTP", "engine qm9", "engine qm9-formula", "RDKit, each of two")


def ask(port: int, path: str, body: Mapping[str, Any]) -> Any:
    """Return the answer to a request."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)) as answer:
        return json.load(answer)


def megabytes(pid: int) -> tuple[int, int]:
    """Return the resident and the private memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name.rstrip(":"): int(size) for name, size, *_ in map(str.split, lines)}
    return sizes["Rss"] // 1000, (sizes["Private_Clean"] + sizes["Private_Dirty"]) // 1000


def processes(service: int) -> dict[str, int]:
    """Return the processes of a service by their names; the engines in the order of their start."""
    found = {"HTTP": service}
    engines = iter(PROCESSES[1:3])
    for pid in sorted(children(service)):
        libraries = Path(f"/proc/{pid}/maps").read_text()
        if "libtorch_cpu" in libraries:
            found[next(engines)] = pid
        elif "rdmolops" in libraries:
            found[PROCESSES[3]] = pid
    return found


def moments(port: int, quick: bool) -> dict[str, Callable[[], object]]:
    """Return what is asked before each reading."""
    xyz = {"format": "xyz", "data": "3\n\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"}
    asked: dict[str, Callable[[], object]] = {
        "at the start": lambda: None,
        "after 64 molecules": lambda: ask(port, "/sample", {"n_molecules": 8 if quick else 64, "seed": 0}),
        "after scores": lambda: ask(port, "/likelihood", {"structures": [xyz] * 4}),
        "after an exact score": lambda: ask(port, "/likelihood", {"structures": [xyz], "divergence": "exact"}),
        "after a formula": lambda: ask(port, "/sample", {"formula": "H2O", "seed": 0}),
    }
    return asked


def plateau(minutes: float) -> None:
    """Let an engine generate molecules of all sizes, and write its resident memory over time."""
    # The processes of the service do without torch, and the other readings are of them.
    from enflow.model.config import TOLERANCES
    from enflow.service.engine.loading import from_weights
    from enflow.service.protocol.requests import EngineSampleRequest
    from enflow.service.settings import BUNDLED_WEIGHTS

    engine, chance, begin = from_weights(str(BUNDLED_WEIGHTS), "cpu", threads=1), random.Random(0), time.monotonic()
    found, molecules = [megabytes(os.getpid())[0]], 0
    for number in itertools.count():
        if engine.idle:
            sizes = tuple(chance.randint(3, 29) for _ in range(chance.randint(1, 12)))
            rtol = TOLERANCES[chance.choice(["draft", "standard"])]
            engine.add(EngineSampleRequest(id=f"{number}", seed=number, n_atoms=sizes, rtol=rtol, atol=rtol))
            molecules += len(sizes)
        engine.step()
        if time.monotonic() - begin > minutes * 60 * len(found) / PARTS:
            found.append(megabytes(os.getpid())[0])
            if len(found) > PARTS:
                break
    facts = {"minutes": minutes, "molecules": molecules, "rss_mb": found}
    columns = ["RSS in MB, after minutes", *(f"{part * minutes / PARTS:.1f}" for part in range(PARTS + 1))]
    rows = [[f"engine, {molecules} molecules", *map(str, found)]]
    write_results("memory_plateau", "Memory of an engine over time", columns, rows, facts)
    write_section(DOCS / "operations.md", "plateau", markdown(columns, rows))


def main(quick: bool) -> None:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        settings = {"ENFLOW_JOBS_URL": f"sqlite:///{folder}/jobs.sqlite", "ENFLOW_COMPILE": "0", "ENFLOW_THREADS": "1"}
        command = [sys.executable, "-m", "enflow.service", "serve", "--port", str(port), "--log-level", "error"]
        service = subprocess.Popen(command, env={**os.environ, **settings})
        try:
            wait_until_ready(port, service)
            for moment, act in moments(port, quick).items():
                act()
                time.sleep(QUIET_S)
                found[moment] = {name: megabytes(pid) for name, pid in processes(service.pid).items()}
        finally:
            service.terminate()
            service.wait()
    columns = ["RSS (private), MB", *found]
    cells = {
        name: ["-" if name not in each else "{} ({})".format(*each[name]) for each in found.values()]
        for name in PROCESSES
    }
    rows = [[name, *row] for name, row in cells.items()]
    write_results("memory", "Memory of the service's processes", columns, rows, {"rss_private_mb": found})
    if not quick:
        write_section(DOCS / "operations.md", "memory", markdown(columns, rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plateau", type=float, help="minutes")
    arguments = parser.parse_args()
    if arguments.plateau:
        plateau(arguments.plateau)
    else:
        main(arguments.quick)
