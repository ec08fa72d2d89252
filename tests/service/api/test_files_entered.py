"""The number of source files that a request enters on the event loop's thread: few hops are easy to follow."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import httpx
import pytest

import enflow.service
from enflow.service.client.process_client import engine_client
from enflow.service.schemas.examples import METHANE
from enflow.service.settings import Settings
from tests.service.serving import one_worker, serving, tiny_weights

SERVICE = Path(enflow.service.__file__).parent
MAX_FILES = 20
Functions = set[tuple[str, str]]
"""Files below `service` and their functions."""
Running = tuple[httpx.Client, asyncio.AbstractEventLoop]
BODIES = {
    "/sample": {"n_molecules": 2, "n_atoms": 5, "deadline_s": 300.0},
    "/likelihood": {"structures": [{"format": "xyz", "data": METHANE}]},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings(
        weights=tiny_weights(tmp_path_factory.mktemp("weights")), device="cpu", threads=1, chemistry=one_worker()
    )
    with serving(engine_client(settings), settings) as (http, server):
        yield http, server.servers[0].get_loop()


@pytest.fixture(scope="module")
def without_request(running: Running) -> Functions:
    """The functions that the service calls by itself."""
    return functions_called(running, lambda: time.sleep(6.0))


@pytest.mark.parametrize("path", BODIES)
def test_a_request_enters_few_files(running: Running, without_request: Functions, path: str) -> None:
    http, _ = running
    with_request = functions_called(running, lambda: http.post(path, json=BODIES[path]).raise_for_status())
    files = {file for file, _ in with_request - without_request}
    assert len(files) <= MAX_FILES, "\n".join(sorted(files))


def functions_called(running: Running, act: Callable[[], object]) -> Functions:
    """Return the functions that the event loop's thread calls during an action."""
    _, loop = running
    called: Functions = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{SERVICE}/"):
            called.add((frame.f_code.co_filename.removeprefix(f"{SERVICE}/"), frame.f_code.co_qualname))

    loop.call_soon_threadsafe(sys.setprofile, note)
    act()
    loop.call_soon_threadsafe(sys.setprofile, None)
    return called
