"""The image, built by `docker compose build` or named by ENFLOW_IMAGE, run by Docker or Podman."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from tests.ports import free_port

IMAGE = os.environ.get("ENFLOW_IMAGE", "enflow:0.2.0")
DRAIN_S = 20
LOCKED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


@dataclass
class Container:
    """A container of the image, hardened as docker-compose.yml does it."""

    engine: str
    identity: str
    address: str

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.engine, "exec", self.identity, *command], capture_output=True, text=True)

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        request = Request(f"{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=300) as answer:
            return json.load(answer)


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def engine() -> str:
    """A container engine that has the image and runs it."""
    found = [program for program in ("docker", "podman") if shutil.which(program)]
    tried = {program: subprocess.run([program, "info"], capture_output=True).returncode for program in found}
    works = [program for program in found if not tried[program]]
    if not works:
        pytest.skip(f"no container engine runs here (tried: {', '.join(tried) or 'none is installed'})")
    has = [
        each for each in works if not subprocess.run([each, "image", "inspect", IMAGE], capture_output=True).returncode
    ]
    if not has:
        pytest.skip(f"found no image {IMAGE} ({', '.join(works)}): run `docker compose build`, or set ENFLOW_IMAGE")
    probe = [has[0], "run", "--rm", *LOCKED, "--network=host", "--entrypoint=true", IMAGE]
    if (done := subprocess.run(probe, capture_output=True, text=True)).returncode:
        pytest.skip(f"{has[0]} runs no container here: {done.stderr.strip()}")
    return has[0]


def started(engine: str) -> Container:
    port = free_port()
    settings = [f"ENFLOW_PORT={port}", "ENFLOW_HOST=127.0.0.1", f"ENFLOW_DRAIN_S={DRAIN_S}"]
    given = [f"--env={each}" for each in settings]
    init = ["--init"] if engine == "docker" else []  # Podman's needs a program that may be missing
    identity = output(engine, "run", "--detach", *init, *LOCKED, "--network=host", *given, IMAGE)
    return Container(engine, identity, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def container(engine: str) -> Iterator[Container]:
    """Started, and ready."""
    box = started(engine)
    try:
        wait_until_ready(box)
        yield box
    finally:
        subprocess.run([engine, "rm", "--force", box.identity], check=True, capture_output=True)


def wait_until_ready(box: Container) -> None:
    late = time.monotonic() + 300
    while True:
        try:
            with urlopen(f"{box.address}/health/ready", timeout=60):
                return
        except (URLError, OSError):
            alive = output(box.engine, "inspect", "--format", "{{.State.Running}}", box.identity) == "true"
            logs = subprocess.run([box.engine, "logs", box.identity], capture_output=True, text=True)
            assert alive, logs.stderr
            assert time.monotonic() < late, logs.stderr
            time.sleep(0.2)


def test_it_runs_as_nobody_in_particular_on_a_read_only_root(container: Container) -> None:
    assert container.inside("id", "-u").stdout.strip() == "10001"
    assert "Read-only file system" in container.inside("touch", "/app/x").stderr
    privileges = dict(line.split(":\t") for line in container.inside("cat", "/proc/1/status").stdout.splitlines())
    assert int(privileges["CapEff"], 16) == int(privileges["CapBnd"], 16) == 0
    assert privileges["NoNewPrivs"] == "1"


def test_it_holds_no_tools_to_build_with(container: Container) -> None:
    for program in ("gcc", "cc", "make", "git", "npm"):
        assert container.inside("which", program).returncode, program
    assert "No module named pip" in container.inside("python", "-m", "pip").stderr


def test_its_own_health_check_passes(container: Container) -> None:
    image = json.loads(output(container.engine, "image", "inspect", IMAGE))[0]
    check = image["Config"].get("Healthcheck")
    if check is None:
        pytest.skip("the image was built in the OCI format, which knows no health check")
    assert check["Test"][0] == "CMD"
    assert container.inside(*check["Test"][1:]).returncode == 0


@pytest.mark.parametrize("asked", [{"n_atoms": 9}, {"model": "lj13"}, {"model": "dw4"}])
def test_it_samples(container: Container, asked: dict[str, object]) -> None:
    answer = container.post("/sample", {"n_molecules": 2, "seed": 1, "tolerance": "draft", **asked})
    sizes = [len(molecule["xyz"].splitlines()) - 2 for molecule in answer["molecules"]]
    assert sizes == {"lj13": [13, 13], "dw4": [4, 4]}.get(str(asked.get("model")), [9, 9])


def test_it_serves_the_page(container: Container) -> None:
    with urlopen(f"{container.address}/", timeout=300) as answer:
        assert b"<title>" in answer.read()


def test_on_sigterm_it_finishes_what_runs_and_need_not_be_killed(container: Container) -> None:
    ends: list[object] = []

    def ask() -> None:
        try:
            ends.append(len(container.post("/sample", {"n_molecules": 6, "n_atoms": 9, "seed": 1})["molecules"]))
        except HTTPError as error:
            ends.append(error.code)

    asking = threading.Thread(target=ask)
    asking.start()
    while asking.is_alive() and not running(container):
        time.sleep(0.05)
    output(container.engine, "stop", "--time", str(3 * DRAIN_S), container.identity)
    asking.join()
    assert ends in ([6], [503])  # a slow machine may not finish in the drain time, and is told
    assert output(container.engine, "inspect", "--format", "{{.State.ExitCode}}", container.identity) in {"0", "143"}


def running(box: Container) -> bool:
    with urlopen(f"{box.address}/health/ready", timeout=300) as answer:
        queue = json.load(answer)["queue"]
        return queue["running"] + queue["waiting"] > 0
