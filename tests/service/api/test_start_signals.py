"""Signals while `enflow serve` starts, and a second one later: it ends quietly, and leaves no process."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from enflow.service.__main__ import main
from tests.service.serving import tiny_weights

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")

END_S = 100.0
"""Seconds that the service may take to end on a busy machine."""


class Starting:
    """A service that starts in a process group of its own, with its log in a file."""

    def __init__(self, folder: Path, **environment: str) -> None:
        weights, self._log = tiny_weights(folder / "weights"), folder / "log"
        options = {"ENFLOW_CHEMISTRY__PROCESSES": "2", "ENFLOW_JOBS_URL": f"sqlite:///{folder}/jobs.sqlite"}
        command = [sys.executable, "-m", "enflow.service", "serve", "--port", "0", "--weights", str(weights)]
        with self._log.open("w") as sink:
            self.process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=sink,
                env=os.environ | options | environment,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log.read_text()

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        while not holds():
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def end(self, number: int) -> int:
        """Send a signal as a terminal or a supervisor does, and return the exit status as a shell shows it."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        code = self.process.wait(END_S)
        return 128 - code if code < 0 else code

    def others(self) -> list[int]:
        """Return the ids of the living processes of its session, without its first process."""
        return [pid for pid in _processes(self.process.pid) if pid != self.process.pid]


def _processes(session: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, of, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state != "Z":
                found.append(int(folder.name))
    return found


def _has_loaded(pid: int, library: str) -> bool:
    with suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text()
    return False


def loads_its_modules(service: Starting) -> bool:
    return _has_loaded(service.process.pid, "_pydantic_core")


def processes_load_their_modules(service: Starting) -> bool:
    return any(_has_loaded(pid, "_multiarray_umath") for pid in service.others())


def has_started_processes(service: Starting) -> bool:
    return len(service.others()) > 2


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Callable[..., Starting]]:
    started = []

    def start(**environment: str) -> Starting:
        started.append(Starting(tmp_path, **environment))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()
        for pid in service.others():
            os.kill(pid, signal.SIGKILL)


def check_end(service: Starting, number: int, code: int) -> None:
    assert service.end(number) == code
    assert "Traceback" not in service.log
    assert "Warning" not in service.log
    assert "startup complete" not in service.log
    limit = time.monotonic() + END_S
    while left := service.others():
        assert time.monotonic() < limit, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (loads_its_modules, signal.SIGINT),
        (has_started_processes, signal.SIGTERM),
        (processes_load_their_modules, signal.SIGINT),
    ],
)
def test_a_signal_ends_the_start(starting, moment, number) -> None:
    service = starting()
    service.until(lambda: moment(service))
    check_end(service, number, 128 + number)


def test_ctrl_c_ends_the_start_of_several_processes_that_answer_http(starting) -> None:
    service = starting(ENFLOW_FRONTS="2")
    service.until(lambda: "front started" in service.log)
    check_end(service, signal.SIGINT, 0)


def test_a_second_signal_ends_a_running_request_without_a_traceback(starting) -> None:
    service = starting()
    service.until(lambda: '"ready": true' in service.log)
    (port,) = re.findall(r"running on http://127\.0\.0\.1:([0-9]+)", service.log)
    body = {"n_molecules": 60, "n_atoms": 9, "tolerance": 1e-5}
    accept = {"Accept": "text/event-stream"}
    url = f"http://127.0.0.1:{port}/sample"
    with httpx.stream("POST", url, json=body, headers=accept, timeout=END_S) as answer:
        lines = answer.iter_lines()
        next(lines)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # it drains; the second signal is no repetition of the first
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    service.process.wait(END_S)
    assert "Traceback" not in service.log


def test_the_first_process_of_a_container_handles_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system sends that process no signal that has no handler."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["enflow", "--version"])
    try:
        with pytest.raises(SystemExit) as version:
            main()
        assert not version.value.code
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)
