"""Two processes that answer HTTP and share an engine: the same molecules, common counts, and replacement."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from enflow.model.errors import ConfigError
from enflow.service.api import fronts
from tests.service.serving import tiny_weights


@dataclass
class Service:
    """A service in processes of its own, and the file of its log."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def logged(self, event: str) -> list[dict[str, int]]:
        """Return the lines of an event in the log."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def url(self) -> str:
        """The address, once it is logged."""
        self.until(lambda: "running on" in self.log.read_text())
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", self.log.read_text())
        assert found
        return found[1]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, and as long as the service runs."""
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Return True if the service takes requests."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=60).is_success
        except httpx.TransportError:  # the front that took the connection was killed
            return False


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    weights, log = tiny_weights(tmp_path), tmp_path / "log"
    options = {"ENFLOW_FRONTS": "2", "ENFLOW_CHEMISTRY__PROCESSES": "1", "ENFLOW_DRAIN_S": "1", "OMP_NUM_THREADS": "1"}
    options["ENFLOW_JOBS_URL"] = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    command = [sys.executable, "-m", "enflow.service", "serve", "--port", "0", "--weights", str(weights)]
    with log.open("w") as sink:
        process = subprocess.Popen([*command, "--threads", "1"], stderr=sink, env=os.environ | options)
    service = Service(process, log)
    try:
        service.until(service.is_ready)
        yield service
    finally:
        process.kill()
        process.wait()


def sampled(url: str) -> list[dict[str, object]]:
    answer = httpx.post(f"{url}/sample", json={"n_molecules": 2, "n_atoms": 5, "seed": 7}, timeout=120)
    assert answer.status_code == 200, answer.text
    molecules: list[dict[str, object]] = answer.json()["molecules"]
    return molecules


def counted(url: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.search(r'^enflow_requests_total{method="POST",route="/sample",status="200"} (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found[1])


def has_ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_folder_of_temporary_files_with_a_long_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, refused in ((83, False), (84, True)):
        monkeypatch.setattr(tempfile, "tempdir", "/".ljust(length, "t"))
        monkeypatch.setattr(fronts, "MOST_BYTES", 107)
        with (
            pytest.raises(ConfigError, match="of 84 bytes, expected at most 83: the sockets")
            if refused
            else nullcontext()
        ):
            fronts.check_temporary_folder()


def test_two_fronts_share_an_engine_and_one_that_is_killed_is_replaced(service: Service) -> None:
    url = service.url
    first = sampled(url)
    assert all(sampled(url) == first for _ in range(9))
    service.until(lambda: counted(url) >= 10.0)  # a front counts a request after its answer
    assert [counted(url) for _ in range(5)] == [10.0] * 5
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    assert re.findall(r"^enflow_engine_finished_total{.*} (\S+)$", metrics, re.MULTILINE)[:1] == ["20.0"]

    fronts = [line["pid"] for line in service.logged("front started")]
    assert len(fronts) == 2
    os.kill(fronts[0], signal.SIGKILL)
    service.until(lambda: len(service.logged("front started")) == 3)
    assert [line["pid"] for line in service.logged("front ended")] == fronts[:1]
    service.until(service.is_ready)
    assert all(sampled(url) == first for _ in range(4))
    service.until(lambda: counted(url) >= 14.0)
    assert counted(url) == 14.0

    service.process.terminate()
    assert service.process.wait(120) == 0
    assert all(has_ended(line["pid"]) for line in service.logged("front started"))


def test_fronts_end_with_the_process_of_the_engines(service: Service) -> None:
    service.process.kill()
    service.process.wait()
    fronts = [line["pid"] for line in service.logged("front started")]
    end = time.monotonic() + 300
    while not all(map(has_ended, fronts)):
        assert time.monotonic() < end, "a front goes on without its engines"
        time.sleep(0.1)
