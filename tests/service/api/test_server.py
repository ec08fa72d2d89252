"""The server with few file descriptors and many connections."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.service.serving import weights_with_card

SERVE = """
import resource, sys
from pathlib import Path
from enflow.service.settings import Settings
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving

if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None  # uvicorn takes it where it is installed
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
settings = Settings(weights=Path(sys.argv[1]), chemistry=one_worker(), header_s=1000)
with serving(FakeClient(), settings) as (http, _):
    print(f"address {http.base_url}", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_a_hundred_idle_connections_leave_room_for_a_request(tmp_path: Path, loop: str) -> None:
    command = [sys.executable, "-c", SERVE, str(weights_with_card(tmp_path)), loop]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as process,
        contextlib.ExitStack() as connections,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = httpx.URL(next(line.split()[1] for line in lines if line.startswith("address ")))
        for _ in range(100):
            connections.enter_context(socket.create_connection((address.host, address.port), timeout=60))
        assert httpx.get(address.join("/health/live"), timeout=60).status_code == 200
        process.stdin.close()
    assert "out of system resource" not in (tmp_path / "log").read_text()
