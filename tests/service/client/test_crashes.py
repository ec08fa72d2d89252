"""Engines that end: no molecule is lost or changed, and only the molecule that ends them fails."""

import asyncio
import random
from pathlib import Path

import pytest
import structlog

from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.protocol.events import Done, Event, Failed, Reason, Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.protocol.status import Unavailable
from tests import stubs
from tests.service.client.conversations import CONFIG, Forked, answer, assert_complete, expected, ready, sample
from tests.service.local_replicas import InProcessClient
from tests.stubs import run


@pytest.mark.parametrize(
    ("engine", "kills", "sizes"),
    [("engine", 20, [(5 + i % 4, 8, 11) for i in range(12)]), ("cluster_engine", 5, [(4, 4, 4)] * 12)],
    ids=["molecules", "particles"],
)
def test_twenty_kills_lose_nothing_double_nothing_change_nothing(
    engine: str, kills: int, sizes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow machine may be killed three times with the same molecule alone in the step, which ends no worker here.
    monkeypatch.setattr("enflow.service.client.request_tracker.MAX_CRASHES_ALONE", 1000)
    requests = [sample(f"request {i}", each, frames=2) for i, each in enumerate(sizes)]
    wanted = {request.id: expected(request, engine) for request in requests}
    chance = random.Random(1)

    async def talk() -> int:
        spec = EngineSpec(f"tests.stubs:{engine}", {"pause": 0.004, "pairs": 300})
        client = Forked(spec, ClientConfig(max_crashes=1000))
        await client.start()
        files, rounds = _open_files(), 0
        while client.stats().restarts < kills:
            tasks = [asyncio.create_task(answer(client, _renamed(request, rounds))) for request in requests]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(chance.uniform(0.0, 0.6))
                if client.stats().restarts < kills and client._worker is not None:
                    client._worker.runner.kill()  # no error if it has ended already
            for request, task in zip(requests, tasks, strict=True):
                assert_complete(task.result(), wanted[request.id])
            rounds += 1
        while _open_files() > files + 4:  # the reading thread of the last worker may still close its pipe
            await asyncio.sleep(0.02)
        restarts = client.stats().restarts
        await client.close()
        return restarts

    assert asyncio.run(asyncio.wait_for(talk(), 400)) >= kills


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _renamed(request: EngineSampleRequest, rounds: int) -> EngineSampleRequest:
    return EngineSampleRequest(**{**request.__dict__, "id": f"{request.id}, round {rounds}"})


def test_a_crash_loop_opens_the_breaker_and_a_cure_closes_it(tmp_path: Path) -> None:
    cure = tmp_path / "cure"

    async def talk() -> None:
        client = Forked(
            EngineSpec("tests.stubs:broken", {"cure": str(cure)}), ClientConfig(max_crashes=3, breaker_s=1e6)
        )
        await client.start()
        events = await answer(client, sample("lost"))
        assert {event.reason for event in events if isinstance(event, Failed)} == {Reason.ENGINE}
        assert "no device" in next(event.detail for event in events if isinstance(event, Failed))
        health = client.health()
        assert (health.live, health.ready) == (True, False)
        assert health.reason.endswith("no device: cure is missing")  # without the folder
        with pytest.raises(Unavailable, match="no device"):
            await client.submit(sample("refused"))
        cure.touch()
        client._breaker.retry_at = 0.0  # the pause is over
        await ready(client)
        assert isinstance((await answer(client, sample("cured")))[-1], Done)
        await client.close()

    asyncio.run(asyncio.wait_for(talk(), 120))


@pytest.mark.parametrize(
    ("how", "end"), [("fatal", "the worker ended with exit code 7"), ("killed", "the worker was ended by SIGKILL")]
)
def test_a_molecule_that_ends_the_process_fails_alone(how: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enflow.service.client.worker_handle.EXIT_S", 60.0)  # the exit code is compared below
    request = sample("mixed", (5, 8, 13, 6, 11))
    beside = sample("beside", (5, 6))

    async def talk() -> tuple[list[Event], ...]:
        client = Forked(EngineSpec("tests.stubs:engine", {how: 13, "pause": 0.002}), ClientConfig(hang_s=60.0))
        await client.start()
        events = await asyncio.gather(answer(client, request), answer(client, beside))
        after = await answer(client, sample("after", (5, 6)))
        await client.close()
        return (*events, after)

    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        mixed, others, after = asyncio.run(asyncio.wait_for(talk(), 400))
    failed = [event for event in mixed if isinstance(event, Failed)]
    assert [(event.index, event.reason) for event in failed] == [(2, Reason.CRASH)]
    assert end in failed[0].detail
    wanted = {event.index: event for event in run(stubs.engine(), request) if isinstance(event, Sampled)}
    assert_complete([event for event in mixed if event not in failed], {i: wanted[i] for i in (0, 1, 3, 4)})
    assert_complete(others, expected(beside))
    assert isinstance(after[-1], Done)
    ends = [line for line in lines if line["event"] == "worker ended"]
    assert all(line["reason"] == end for line in ends)
    assert all(("mixed", 2) in line["samples"] for line in ends)


def test_a_molecule_that_exhausts_the_memory_fails_alone() -> None:
    request = sample("mixed", (5, 8, 13, 6, 11))

    async def talk() -> list[Event]:
        client = InProcessClient(EngineSpec("tests.stubs:engine", {"hungry": 13}), CONFIG)
        await client.start()
        events = await answer(client, request)
        await client.close()
        return events

    events = asyncio.run(asyncio.wait_for(talk(), 120))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.index for event in failed] == [2]
    wanted = {event.index: event for event in run(stubs.engine(), request) if isinstance(event, Sampled)}
    assert_complete([event for event in events if event not in failed], {i: wanted[i] for i in (0, 1, 3, 4)})
