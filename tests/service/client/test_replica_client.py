"""The client of many engines: a request is shared among the replicas, and a lost replica loses no answer."""

import asyncio
import itertools
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.portions import MAX_SIZE, MIN_SIZE, split
from enflow.service.client.replica_client import MAX_LOSSES
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason, Sampled
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, Structure
from tests import stubs
from tests.service.local_replicas import TwoReplicas
from tests.stubs import run

CONFIG = ClientConfig(hang_s=1e6, queue_s=1e9, client_share=1.0)


def sample(name: str, n_atoms: tuple[int, ...], **options: Any) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=7, n_atoms=n_atoms, rtol=1e-5, atol=1e-5, **options)


def run_client(talk: Callable[[TwoReplicas], Awaitable[Any]], **behaviour: float | str) -> Any:
    async def conversation() -> Any:
        client = TwoReplicas(EngineSpec("tests.stubs:engine", behaviour), CONFIG)
        await client.start()
        while [status.health.ready for status in client.replicas] != [True, True]:
            await asyncio.sleep(0.02)
        try:
            return await talk(client)
        finally:
            await client.close()

    return asyncio.run(asyncio.wait_for(conversation(), 120))


async def answer(client: TwoReplicas, request: EngineSampleRequest) -> list[Event]:
    await client.submit(request)
    return [event async for event in client.events(request.id)]


def assert_complete(request: EngineSampleRequest, events: list[Event]) -> None:
    """Every molecule once, the one that a single engine makes, under the caller's own name, and Done at the end."""
    expected = {event.index: event for event in run(stubs.engine(), request) if isinstance(event, Sampled)}
    found = [event for event in events if isinstance(event, Sampled)]
    failed = [event for event in events if isinstance(event, Failed)]
    assert not failed
    assert Counter(event.index for event in found) == dict.fromkeys(expected, 1)
    assert {event.id for event in events} == {request.id}
    assert [type(event) for event in events].count(Done) == 1
    assert isinstance(events[-1], Done)
    for one in found:
        assert np.array_equal(one.atomic_numbers, expected[one.index].atomic_numbers)
        np.testing.assert_allclose(one.positions, expected[one.index].positions, atol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 70), st.integers(0, 10**6))
def test_portions_hold_every_molecule_once_in_order(n: int, replicas: int, first: int) -> None:
    request = sample("a", tuple(i % 29 + 1 for i in range(n)), first_index=first)
    portions = list(split(request, replicas))
    assert [size for each in portions for size in each.n_atoms] == list(request.n_atoms)
    assert [index for each in portions for index in each.indices] == list(range(first, first + n))
    assert max(map(len, portions)) <= MAX_SIZE
    assert min(map(len, portions[:-1]), default=MIN_SIZE) >= MIN_SIZE


def test_structures_are_dealt_out_as_well() -> None:
    molecules = tuple(Structure(np.array([6]), np.full((1, 3), float(i))) for i in range(40))
    portions = list(split(EngineLikelihoodRequest(id="a", molecules=molecules, first_index=5), 2))
    assert [(each.first_index, len(each)) for each in portions] == [(5, 20), (25, 20)]
    assert [m.positions[0, 0] for each in portions for m in each.molecules] == list(range(40))


def test_a_large_request_is_done_by_all_replicas() -> None:
    request = sample("large", (5,) * 80)

    async def talk(client: TwoReplicas) -> tuple[list[Event], Counter[str]]:
        return await answer(client, request), client.pool.answered

    events, served = run_client(talk)
    assert_complete(request, events)
    assert served == {"replica 0": 41, "replica 1": 41}  # forty molecules and Done each


def test_a_replica_that_comes_later_takes_its_part_of_what_waits(tmp_path: Path) -> None:
    request, hang = sample("large", (5,) * 600), tmp_path / "hang"

    async def talk(client: TwoReplicas) -> tuple[list[Event], Counter[str]]:
        client.pool.lost = {"replica 0"}
        while len(client.replicas) == 2:
            await asyncio.sleep(0.02)
        hang.touch()  # no portion ends before both replicas have one
        task = asyncio.create_task(answer(client, request))
        while not client.pool.requested["replica 1"]:
            await asyncio.sleep(0.02)
        client.pool.lost = set()
        while not client.pool.requested["replica 0"]:
            await asyncio.sleep(0.02)
        hang.unlink()
        return await task, client.pool.answered

    events, served = run_client(talk, hang=str(hang))
    assert_complete(request, events)
    assert all(served[name] > 80 for name in ("replica 0", "replica 1"))  # of portions of 256, 256 and 88


def test_a_killed_replica_loses_nothing_doubles_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica that gives an answer is lost after every 5 to 19 answers, and the one lost before is back."""
    monkeypatch.setattr("enflow.service.client.replica_client.MAX_LOSSES", 1000)  # the molecules end no replica
    requests = [sample(f"request {i}", (5 + i, 8) * 20, frames=2, progress=i == 0) for i in range(3)]
    chance = random.Random(3)

    async def talk(client: TwoReplicas) -> tuple[list[list[Event]], int]:
        client.pool.kills_at = list(itertools.accumulate(chance.randrange(5, 20) for _ in range(100)))
        results = await asyncio.gather(*(answer(client, request) for request in requests))
        return results, client.pool.kills

    results, kills = run_client(talk, pause=0.002, pairs=600)
    assert kills >= 3  # some fall on a replica that is not back yet
    for request, events in zip(requests, results, strict=True):
        assert_complete(request, [event for event in events if not isinstance(event, Progress)])


def test_a_broken_engine_is_no_answer_the_other_replica_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # A refusal is no loss, however often it comes.
    monkeypatch.setattr("enflow.service.client.replica_client.MAX_LOSSES", 2)
    request = sample("a", (5,) * 80)

    async def talk(client: TwoReplicas) -> list[Event]:
        task = asyncio.create_task(answer(client, request))
        while not client.pool.requested["replica 0"]:
            await asyncio.sleep(0)
        await client.pool.engines["replica 0"].close()  # which fails its requests, and refuses the next
        return await task

    assert_complete(request, run_client(talk, pause=0.002))


def test_what_no_replica_takes_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enflow.service.client.replica_client.REFUSAL_LIMIT_S", 0.3)

    async def talk(client: TwoReplicas) -> list[Event]:
        for engine in client.pool.engines.values():
            await engine.close()
        return await answer(client, sample("a", (5, 5)))

    first, second, end = run_client(talk)
    assert [first.index, second.index] == [0, 1]
    for event in (first, second):
        assert event.reason == Reason.ENGINE
        assert re.fullmatch(r"no replica accepted it for 0\.3 s: the engine .*", event.detail)
    assert isinstance(end, Done)


def test_what_kills_every_replica_fails_alone() -> None:
    async def talk(client: TwoReplicas) -> list[list[Event]]:
        client.pool.poison = 13
        return await asyncio.gather(answer(client, sample("bad", (13,))), answer(client, sample("good", (5,))))

    bad, good = run_client(talk)
    assert [(event.index, event.reason) for event in bad if isinstance(event, Failed)] == [(0, Reason.ENGINE)]
    assert f"{MAX_LOSSES} replicas were lost: poisoned" in next(e.detail for e in bad if isinstance(e, Failed))
    assert_complete(sample("good", (5,)), good)


def test_a_molecule_that_ends_every_replica_fails_alone_in_its_portion() -> None:
    request = sample("mixed", (5, 6, 13, 7, 8))

    async def talk(client: TwoReplicas) -> list[Event]:
        client.pool.poison = 13
        return await answer(client, request)

    events = run_client(talk)
    assert [event.index for event in events if isinstance(event, Failed)] == [2]
    found = {event.index for event in events if isinstance(event, Sampled)}
    assert found == {0, 1, 3, 4}


def test_what_is_aborted_leaves_every_replica() -> None:
    async def talk(client: TwoReplicas) -> None:
        await client.submit(sample("large", (20,) * 200))
        while client.pool.requested.total() < 2:
            await asyncio.sleep(0.01)
        await client.abort("large")
        while any(engine.stats().requests for engine in client.pool.engines.values()):
            await asyncio.sleep(0.01)
        assert client.stats().queue_units == 0

    run_client(talk, pause=0.002)


def test_without_a_replica_it_lives_and_is_not_ready() -> None:
    async def talk(client: TwoReplicas) -> None:
        assert client.health().ready
        assert client.stats().device == "2 x cpu"
        client.pool.lost = set(client.pool.engines)
        while client.health().ready:
            await asyncio.sleep(0.02)
        assert client.health().live
        assert client.health().reason == "there is no engine yet"

    run_client(talk)


@pytest.mark.parametrize("requests", [0, 1])
def test_drain_waits_for_what_runs(requests: int) -> None:
    async def talk(client: TwoReplicas) -> list[Event]:
        if requests:
            await client.submit(sample("last", (5,) * 20))
        await client.drain(60)
        assert not client.health().ready
        return [event async for event in client.events("last")] if requests else []

    if requests:
        assert_complete(sample("last", (5,) * 20), run_client(talk))
    else:
        assert run_client(talk) == []
