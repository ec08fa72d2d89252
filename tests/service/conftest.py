"""A running application with a fake engine client, started once: a process that loads RDKit costs seconds."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
import structlog

from enflow.service.settings import Settings
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, weights_with_card


@dataclass
class Api:
    """The running application: `http` sends requests to it, and `client` is its fake engine client."""

    http: httpx.Client
    client: FakeClient


DEADLINES_S = (0.5, 5.0, 50.0)
"""Deadlines to try in turn: a slow machine may not reach the state that a test is about before the first one."""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most 300 seconds. The condition must stay true once it is."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "the condition did not hold within 300 seconds"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    structlog.reset_defaults()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # the tests of the logs look at them


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    weights = weights_with_card(tmp_path_factory.mktemp("weights"))
    client = FakeClient()
    limits = {"max_molecules": 20, "max_attempts": 3, "max_bytes": 2_000_000, "max_idle_s": 60, "max_records": 10}
    settings = Settings(
        weights=weights, chemistry=one_worker(), limits=limits, requests_per_minute=100_000, header_s=60
    )
    with serving(client, settings) as (http, _):
        yield Api(http, client)


@pytest.fixture
def api(_running: Api) -> Iterator[Api]:
    _running.client.__init__()  # type: ignore[misc]
    yield _running
    while jobs := _running.http.get("/jobs").json()["jobs"]:  # the first DELETE cancels, the second removes
        for job in jobs:
            _running.http.delete(f"/jobs/{job['id']}")
