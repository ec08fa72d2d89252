"""The clients of an engine: one contract for all of them, and the answers when workers end."""

import asyncio
import multiprocessing
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from enflow.model.card import read_card
from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.lazy_client import LazyClient
from enflow.service.client.process_client import ProcessClient, engine_client
from enflow.service.protocol.events import Done, Event, Failed, Reason, Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.protocol.status import Overloaded, Unavailable
from enflow.service.settings import Settings
from tests import stubs
from tests.service.local_replicas import InProcessClient, OverSocket, TwoReplicas
from tests.service.serving import tiny_particle_weights, tiny_weights
from tests.stubs import run

CONFIG = ClientConfig(start_s=120.0, hang_s=60.0, queue_s=1e9, client_share=1.0)
Run = Callable[[Callable[[Any], Awaitable[Any]]], Any]


def sample(name: str, n_atoms: tuple[int, ...] = (5, 6), **options: Any) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=7, n_atoms=n_atoms, rtol=1e-5, atol=1e-5, **options)


async def ready(client: Any) -> None:
    while not client.health().ready:
        await asyncio.sleep(0.02)


async def events_of(client: Any, name: str) -> list[Event]:
    return [event async for event in client.events(name)]


async def answer(client: Any, request: EngineSampleRequest) -> list[Event]:
    await client.submit(request)
    return await events_of(client, request.id)


def assert_complete(events: list[Event], expected: dict[int, Sampled]) -> None:
    """Every molecule once, the right one, and Done at the end."""
    assert isinstance(events[-1], Done)
    found = [event for event in events if isinstance(event, Sampled)]
    assert Counter(event.index for event in found) == dict.fromkeys(expected, 1)
    assert len(events) == len(found) + 1
    for one in found:
        assert np.array_equal(one.atomic_numbers, expected[one.index].atomic_numbers)
        np.testing.assert_allclose(one.positions, expected[one.index].positions, atol=1e-9)


def expected(request: EngineSampleRequest, engine: str = "engine") -> dict[int, Sampled]:
    return {event.index: event for event in run(getattr(stubs, engine)(), request) if isinstance(event, Sampled)}


class Forked(ProcessClient):
    """Processes whose torch is loaded already, so that twenty of them are had in seconds."""

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(["tests.stubs"])


def lazy(spec: EngineSpec, config: ClientConfig) -> LazyClient:
    return LazyClient(InProcessClient(spec, config))


@pytest.fixture(scope="module", params=[InProcessClient, ProcessClient, TwoReplicas, OverSocket, lazy])
def contract(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a conversation with a client that is ready; one client for the whole suite."""
    client = request.param(EngineSpec("tests.stubs:engine", {"non_finite": 13, "pause": 0.0005}), CONFIG)
    with asyncio.Runner() as runner:

        async def start() -> None:
            await client.start()
            await ready(client)

        runner.run(start())
        yield lambda talk: runner.run(asyncio.wait_for(talk(client), 120))
        runner.run(client.close())


def test_a_request_ends_with_done_and_brings_the_engines_molecules(contract: Run) -> None:
    request = sample("a", (5, 9, 18))
    assert_complete(contract(lambda client: answer(client, request)), expected(request))


def test_requests_side_by_side_receive_their_own_events_only(contract: Run) -> None:
    requests = [sample(f"side {i}", (5 + i, 6)) for i in range(4)]

    async def talk(client: Any) -> list[list[Event]]:
        return await asyncio.gather(*(answer(client, request) for request in requests))

    for request, events in zip(requests, contract(talk), strict=True):
        assert {event.id for event in events} == {request.id}
        assert_complete(events, expected(request))


def test_a_molecule_that_fails_says_why(contract: Run) -> None:
    events = contract(lambda client: answer(client, sample("non_finite", (12, 13))))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.index, event.reason) for event in failed] == [(1, Reason.NON_FINITE)]


def test_abort_ends_a_request_at_any_moment_once(contract: Run) -> None:
    async def one(client: Any, i: int) -> list[Event]:
        request = sample(f"abort {i}", (5, 7))
        await client.submit(request)
        tasks = asyncio.create_task(events_of(client, request.id))
        await asyncio.sleep(random.Random(i).uniform(0, 0.4))
        await client.abort(request.id)
        await client.abort(request.id)
        return await tasks

    async def talk(client: Any) -> list[list[Event]]:
        return await asyncio.gather(*(one(client, i) for i in range(12)))

    for events in contract(talk):
        assert [type(event) for event in events].count(Done) == 1
        assert isinstance(events[-1], Done)
        answers = [event for event in events if isinstance(event, Failed | Sampled)]
        assert Counter(event.index for event in answers) == {0: 1, 1: 1}


def test_an_aborted_request_leaves_the_device(contract: Run) -> None:
    async def talk(client: Any) -> None:
        await client.submit(sample("large", (20,) * 200))
        await client.abort("large")
        events = await answer(client, sample("next"))
        assert isinstance(events[-1], Done)
        assert client.stats().requests == 0
        while client.stats().running or client.stats().waiting:
            await asyncio.sleep(0.02)

    contract(talk)


def test_a_deadline_is_kept(contract: Run) -> None:
    events = contract(lambda client: answer(client, sample("late", (29,) * 300, deadline=time.time() + 0.3)))
    assert isinstance(events[-1], Done)
    assert {event.reason for event in events if isinstance(event, Failed)} == {Reason.DEADLINE}


def test_an_id_names_one_request(contract: Run) -> None:
    async def talk(client: Any) -> None:
        await client.submit(sample("twice"))
        with pytest.raises(ValueError, match="twice"):
            await client.submit(sample("twice"))
        assert isinstance((await events_of(client, "twice"))[-1], Done)
        with pytest.raises(KeyError):
            await events_of(client, "twice")

    contract(talk)


def test_a_full_queue_refuses_and_takes_again(contract: Run) -> None:
    async def talk(client: Any) -> None:
        await answer(client, sample("zeroth"))  # starts a lazy engine
        engine = getattr(client, "_client", client)
        admission, engine._admission = engine._admission, type(engine._admission)(seconds=1e-6, client_share=1.0)
        try:
            await client.submit(sample("first", (20,) * 200))  # long, and aborted below
            with pytest.raises(Overloaded) as caught:
                await client.submit(sample("second", (20,) * 20))
            assert caught.value.retry_after >= 1.0
            await client.abort("first")
            assert isinstance((await answer(client, sample("third")))[-1], Done)
            assert isinstance((await answer(client, sample("fourth")))[-1], Done)
        finally:
            engine._admission = admission

    contract(talk)


def test_stats_count_what_was_answered(contract: Run) -> None:
    async def talk(client: Any) -> tuple[Counter[str], Counter[str]]:
        before = Counter(client.stats().finished)
        await answer(client, sample("counted", (5, 6, 7)))
        return before, Counter(client.stats().finished)

    before, after = contract(talk)
    assert after - before == {"sampled": 3}


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
    monkeypatch.setattr("enflow.service.client.admission.SMALL_S", 1000.0)
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
