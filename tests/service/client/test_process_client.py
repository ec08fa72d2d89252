"""The clients of an engine: one contract for all of them, and the answers when workers end."""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from enflow.model.card import read_card
from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.process_client import ProcessClient, engine_client
from enflow.service.protocol.events import Done, Event, Failed, Reason
from enflow.service.protocol.status import Unavailable
from enflow.service.settings import Settings
from tests.service.client.conversations import (
    CONFIG,
    Forked,
    answer,
    assert_complete,
    events_of,
    expected,
    lazy,
    ready,
    sample,
)
from tests.service.local_replicas import InProcessClient
from tests.service.serving import tiny_particle_weights, tiny_weights


def test_a_lazy_engine_starts_with_its_first_request() -> None:
    async def talk() -> list[str]:
        client = lazy(EngineSpec("tests.stubs:engine"), CONFIG)
        await client.start()
        before, health = set(threading.enumerate()), client.health()
        assert (health.ready, health.reason) == (True, "the engine starts with the first request")
        assert client.stats().requests == 0
        await answer(client, sample("first"))
        started = sorted(thread.name for thread in set(threading.enumerate()) - before)
        await client.close()
        return started

    started = asyncio.run(asyncio.wait_for(talk(), 120))
    assert started == ["enflow-_read", "enflow-_write", "enflow-engine"]  # the engine, and both ends of its pipe


def test_the_service_need_not_load_torch() -> None:
    code = "import sys, enflow.service.client.process_client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_a_hung_worker_is_replaced_and_its_molecules_go_on(tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    request = sample("a", (5, 9))

    async def talk() -> list[Event]:
        spec = EngineSpec("tests.stubs:engine", {"hang": str(hang), "pause": 0.002})
        client = Forked(spec, CONFIG)
        await client.start()
        await ready(client)
        hang.touch()
        await client.submit(request)
        client._config = replace(CONFIG, hang_s=1.0)  # short while the worker hangs; a slow machine is no hang
        while client.stats().restarts == 0:
            await asyncio.sleep(0.05)
        client._config = CONFIG
        hang.unlink()
        events = await events_of(client, "a")
        await client.close()
        return events

    assert_complete(asyncio.run(asyncio.wait_for(talk(), 120)), expected(request))


def test_a_start_that_takes_too_long_gets_more_time_each_time() -> None:
    async def talk() -> None:
        spec = EngineSpec("tests.stubs:slow_start", {"seconds": 1.0})
        client = Forked(spec, ClientConfig(start_s=0.1, max_crashes=20))
        await client.start()
        await ready(client)
        assert client.stats().restarts > 0
        await client.close()

    asyncio.run(asyncio.wait_for(talk(), 240))


def test_a_worker_that_is_killed_is_no_zombie() -> None:
    async def talk() -> None:
        client = ProcessClient(EngineSpec("tests.stubs:undead"), ClientConfig(max_crashes=1, breaker_s=600))
        await client.start()
        assert client._worker is not None
        process = Path(f"/proc/{client._worker.runner.pid}")
        while process.exists():
            await asyncio.sleep(0.05)
        await client.close()

    asyncio.run(asyncio.wait_for(talk(), 120))


def test_weights_that_are_replaced_under_a_running_service_are_refused(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    spec = engine_client(Settings(weights=tmp_path, device="cpu"))._spec
    card = read_card(tmp_path)
    tiny_particle_weights(tmp_path, "dw4")

    async def talk() -> str:
        client = InProcessClient(spec, ClientConfig(max_crashes=1, breaker_s=60))
        await client.start()
        events = await answer(client, sample("lost"))
        assert {event.reason for event in events if isinstance(event, Failed)} == {Reason.ENGINE}
        reason = client.health().reason
        await client.close()
        return reason

    reason = asyncio.run(asyncio.wait_for(talk(), 120))
    assert card.weights_sha256 in reason
    assert "changed under the running service" in reason


def test_a_failed_step_is_logged_with_its_request_and_traceback() -> None:
    async def talk() -> None:
        client = InProcessClient(EngineSpec("tests.stubs:engine", {"poison": 13}), CONFIG)
        await client.start()
        await answer(client, sample("bad", (13,)))
        await client.close()

    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        asyncio.run(asyncio.wait_for(talk(), 120))
    (line,) = [line for line in lines if line["event"] == "step failed"]
    assert line["samples"] == [("bad", 0)]
    assert "IndexError" in line["traceback"]


def test_drain_refuses_new_requests_and_finishes_what_runs() -> None:
    async def talk() -> None:
        client = InProcessClient(EngineSpec("tests.stubs:engine"), CONFIG)
        await client.start()
        await client.submit(sample("last"))
        draining = asyncio.create_task(client.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await client.submit(sample("refused"))
        assert not client.health().ready
        await draining
        assert client.stats().requests == 0
        assert len(await events_of(client, "last")) == 3
        await client.close()

    asyncio.run(asyncio.wait_for(talk(), 120))


def test_close_fails_what_still_runs() -> None:
    async def talk() -> list[Event]:
        client = InProcessClient(EngineSpec("tests.stubs:engine", {"pause": 0.01}), CONFIG)
        await client.start()
        await client.submit(sample("cut", (20,) * 50))
        await client.close()
        return await events_of(client, "cut")

    events = asyncio.run(asyncio.wait_for(talk(), 120))
    assert isinstance(events[-1], Done)
    assert {event.reason for event in events if isinstance(event, Failed)} == {Reason.ENGINE}
