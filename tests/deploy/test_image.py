"""The image as an operator meets it; needs a container engine that runs and the image (`docker compose build`)."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

IMAGE = "enflow:0.1.0"
DRAIN_S = 5


def engine() -> str:
    for program in ("docker", "podman"):
        if shutil.which(program) and not subprocess.run([program, "info"], capture_output=True).returncode:
            return program
    pytest.skip("no container engine runs here")


@pytest.fixture(scope="module")
def container() -> Iterator[tuple[str, str, str]]:
    """The engine, the container's id and its address: started as docker-compose.yml does."""
    program = engine()
    if subprocess.run([program, "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"found no image {IMAGE}: run `{program} compose build`")
    options = ["--init", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    settings = ["--env=ENFLOW_ALLOW_OPEN=1", f"--env=ENFLOW_DRAIN_S={DRAIN_S}"]
    identity = output(program, "run", "--detach", *options, *settings, "--publish=127.0.0.1::8000", IMAGE)
    try:
        address = output(program, "port", identity, "8000/tcp").splitlines()[0]
        wait_until_ready(f"http://{address}")
        yield program, identity, f"http://{address}"
    finally:
        subprocess.run([program, "rm", "--force", identity], check=True, capture_output=True)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wait_until_ready(address: str) -> None:
    late = time.monotonic() + 120
    while True:
        try:
            with urlopen(f"{address}/health/ready", timeout=5):
                return
        except (URLError, OSError):
            assert time.monotonic() < late, "not ready in two minutes"
            time.sleep(0.5)


def test_it_runs_as_nobody_in_particular(container: tuple[str, str, str]) -> None:
    program, identity, _ = container
    assert output(program, "exec", identity, "id", "-u") == "10001"
    refused = subprocess.run([program, "exec", identity, "touch", "/app/x"], capture_output=True, text=True)
    assert "Read-only file system" in refused.stderr


def test_it_samples(container: tuple[str, str, str]) -> None:
    body = json.dumps({"n_molecules": 2, "n_atoms": 9, "seed": 1, "tolerance": "draft"}).encode()
    request = Request(f"{container[2]}/sample", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as answer:
        assert [molecule["n_atoms"] for molecule in json.load(answer)["molecules"]] == [9, 9]


def test_it_serves_the_page(container: tuple[str, str, str]) -> None:
    with urlopen(f"{container[2]}/", timeout=30) as answer:
        assert b"<title>" in answer.read()


def test_it_stops_on_sigterm_and_need_not_be_killed(container: tuple[str, str, str]) -> None:
    program, identity, _ = container
    output(program, "stop", "--time", str(4 * DRAIN_S), identity)
    assert output(program, "inspect", "--format", "{{.State.ExitCode}}", identity) in {"0", "143"}  # 137 = killed
