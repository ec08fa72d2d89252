"""The processor time that a molecule costs before and behind the engine: in the HTTP process, and in RDKit's processes.

    python -m benchmarks.bench_front --before DIR      DIR: a checkout with the code to compare with

Requests of 64 molecules are answered by the whole service over HTTP. The engine's process replays molecules that the
bundled weights have generated, several at a time as a fast device does, so that its own work does not count. Two
callers ask without a pause. The times are those of `/proc/PID/stat`, of both checkouts by turns.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enflow.service.media_types import JSON, SDF, XYZ

ROOT = Path(__file__).parents[1]

MOLECULES, CALLERS, AT_ONCE = 64, 2, 8
"""Molecules of a request, requests at a time, and molecules that the engine finishes in a step."""

FORMATS = {"JSON": JSON, "SDF": SDF, "XYZ": XYZ}
PARTS = ("http", "chemistry")


# The service, in a process of its own


class ReplayedEngine:
    """An engine that answers with recorded molecules; see `enflow.service.engine.core.Engine`."""

    rate, compilation, observer = 1e12, None, None

    def __init__(self, recording: str) -> None:
        recorded = np.load(recording)
        ends = np.cumsum(recorded["sizes"])[:-1]
        self._molecules = [*zip(*(np.split(recorded[name], ends) for name in ("numbers", "positions")), strict=True)]
        self._waiting: list[tuple[Any, int]] = []
        self._missing: dict[str, int] = {}

    def restore(self, snapshot: Any) -> None:
        """Take requests."""
        for request, _ in snapshot.requests:
            self._missing[request.id] = len(request)
            self._waiting += [(request, request.first_index + i) for i in range(len(request))]

    def step(self) -> list[Any]:
        """Finish a few molecules."""
        from enflow.service.protocol.events import Done, Sampled

        now, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
        events: list[Any] = []
        for request, index in now:
            found = self._molecules[(request.seed + index) % len(self._molecules)]
            events.append(Sampled(request.id, index, *found, 44))
            self._missing[request.id] -= 1
            if not self._missing[request.id]:
                events.append(Done(request.id, 0.0, 0.0, 44 * len(request)))
        return events

    @property
    def idle(self) -> bool:
        """True where nothing waits."""
        return not self._waiting

    def abort(self, request_id: str) -> None:
        """Forget a request."""
        self._waiting = [each for each in self._waiting if each[0].id != request_id]

    def check(self) -> bool:
        """Return True."""
        return True

    def stats(self) -> Any:
        """Return no numbers."""
        from enflow.service.protocol.status import Stats

        return Stats()

    def snapshot(self) -> Any:
        """Return an empty snapshot."""
        from enflow.service.protocol.status import Snapshot

        return Snapshot()

    def close(self) -> None:
        """Do nothing."""


def serve(port: int, recording: str, folder: str) -> None:
    """Serve recorded molecules until the process is ended."""
    from enflow.service.api.app import create_app
    from enflow.service.api.server import Server
    from enflow.service.client.config import EngineSpec
    from enflow.service.client.process_client import ProcessClient
    from enflow.service.settings import BUNDLED_WEIGHTS, Settings
    from enflow.service.telemetry import configure_logs

    configure_logs("error")
    weights = Path(folder) / "weights"  # without the folders of other models beside it
    weights.mkdir()
    for name in ("card.json", "weights.safetensors"):
        shutil.copy(BUNDLED_WEIGHTS / name, weights)
    settings = Settings(
        port=port,
        weights=weights,
        requests_per_minute=10**6,
        jobs_url=f"sqlite:///{folder}/jobs.sqlite",
        chemistry={"processes": 1},
    )
    client = ProcessClient(EngineSpec("benchmarks.bench_front:ReplayedEngine", {"recording": recording}))
    Server(create_app(settings, client), settings).run()


# The measurement


@dataclass(frozen=True)
class Service:
    """A running service: its port and its process."""

    port: int
    pid: int

    def ask(self, media_type: str, seed: int) -> bytes:
        """Return the answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = json.dumps({"n_molecules": MOLECULES, "seed": seed})
        connection.request("POST", "/sample", body, {"Content-Type": JSON, "Accept": media_type})
        answer = connection.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the service answered {answer.status}: {found.decode()}")
        return found

    def milliseconds(self) -> dict[str, float]:
        """Return the processor time of the parts so far; a chemistry process is a child that imports RDKit."""
        chemistry = [pid for pid in children(self.pid) if "rdmolops" in Path(f"/proc/{pid}/maps").read_text()]
        return {"http": milliseconds(self.pid), "chemistry": sum(map(milliseconds, chemistry))}


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for task in tasks for each in task.read_text().split()]


def milliseconds(pid: int) -> float:
    """Return the processor time of a process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1e3 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(checkout: Path, recording: Path) -> Iterator[Service]:
    """Give a service with the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        (Path(folder) / "enflow").symlink_to(checkout.resolve())
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
        command = [sys.executable, "-m", "benchmarks.bench_front", "--serve", str(port), str(recording), folder]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            wait_until_ready(port, process)
            yield Service(port, process.pid)
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return when the service takes requests."""
    while process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the service ended with exit code {process.returncode}")


def round_of(service: Service, media_type: str, requests: int, seed: int) -> dict[str, float]:
    """Return the milliseconds of each part for a molecule."""
    before = service.milliseconds()
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda i: service.ask(media_type, seed + MOLECULES * i), range(requests)))
    after = service.milliseconds()
    return {part: (after[part] - before[part]) / (requests * MOLECULES) for part in PARTS}


def measure(checkouts: Mapping[str, Path], recording: Path, rounds: int, requests: int) -> dict[str, Any]:
    """Return the milliseconds of each part by format and checkout, (rounds,)."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {each: [] for each in checkouts} for name in FORMATS}
    with ExitStack() as stack:
        services = {name: stack.enter_context(running(path, recording)) for name, path in checkouts.items()}
        for seed in range(-1, rounds):
            for name, media_type in FORMATS.items():
                for checkout, service in services.items():
                    once = round_of(service, media_type, requests, seed + 1)
                    if seed >= 0:
                        found[name][checkout].append(once)
    return found


def record(path: Path, count: int) -> None:
    """Write molecules of the bundled weights to a file."""
    import enflow

    molecules = enflow.load("qm9").sample([None] * count, seed=0)
    np.savez(
        path,
        sizes=[each.n_atoms for each in molecules],
        numbers=np.concatenate([each.atomic_numbers for each in molecules]),
        positions=np.concatenate([each.positions for each in molecules]),
    )


def table(found: Mapping[str, Any], checkouts: Collection[str]) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the rows of the table, and the medians with the ratio of both checkouts."""
    rows, facts = [], {}
    for name, rounds in found.items():
        for part in PARTS:
            times = {each: np.array([once[part] for once in rounds[each]]) for each in checkouts}
            middle = {each: round(float(np.median(values)), 3) for each, values in times.items()}
            ratio = round(float(np.median(times["now"] / times["before"])), 3) if "before" in times else None
            facts[f"{name} {part}"] = {**middle, "ratio": ratio}
            rows.append([name, part, *(f"{ms:.2f}" for ms in middle.values()), "" if ratio is None else f"{ratio:.2f}"])
    return rows, facts


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *rows])


def main(arguments: argparse.Namespace) -> None:
    # They import torch, which the processes of the service do without.
    from benchmarks.bench_scale import paper
    from benchmarks.measure import DOCS, write_results, write_section

    checkouts = {**({"before": arguments.before} if arguments.before else {}), "now": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        recording = arguments.recording or Path(folder) / "molecules.npz"
        if not recording.is_file():
            record(recording, 64 if arguments.quick else 512)
        rounds, requests = (1, 4) if arguments.quick else (arguments.rounds, 8)
        found = measure(checkouts, recording.resolve(), rounds, requests)
    rows, facts = table(found, checkouts)
    title = f"Processor time of a molecule at {MOLECULES} a request, ms"
    columns = ["format", "process", *checkouts, "ratio"]
    estimate = paper(sum(facts[f"JSON {part}"]["now"] for part in PARTS))
    write_results("front", title, columns, rows, {"molecules_per_request": MOLECULES, "ms": facts, "paper": estimate})
    if arguments.before and not arguments.quick:
        write_section(DOCS / "performance.md", "front", markdown(columns, rows))
        gpus = [
            [f"{each[key]:,.0f}" for key in ("gpus", "molecules_per_s", "front_cores")] for each in estimate["gpus"]
        ]
        heads = ["GPUs", "molecules/s", "cores for the application and RDKit"]
        write_section(DOCS / "operations.md", "gpus", markdown(heads, gpus))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--recording", type=Path, help="file with the molecules, kept for the next run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    given = parse()
    if given.serve:
        serve(int(given.serve[0]), *given.serve[1:])
    else:
        main(given)
