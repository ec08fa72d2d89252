"""Many engines as one: work spreads, and replicas that are lost take nothing with them."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enflow.service.client.process_client import EngineSpec, RestartPolicy
from enflow.service.client.replica_client import LOSSES, PORTION, portions
from enflow.service.engine.core import run
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason, Sampled
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, Structure
from tests import stubs
from tests.service.local_stage import TwoReplicas

CARE = RestartPolicy(queue_s=1e9, client_share=1.0)


def sample(name: str, n_atoms: tuple[int, ...], **options: Any) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=7, n_atoms=n_atoms, rtol=1e-5, atol=1e-5, **options)


def converse(talk: Callable[[TwoReplicas], Awaitable[Any]], **behaviour: float) -> Any:
    async def conversation() -> Any:
        client = TwoReplicas(EngineSpec("tests.stubs:engine", behaviour), CARE)
        await client.start()
        while not all(pulse.health.ready for pulse in client.replicas) or not client.replicas:
            await asyncio.sleep(0.02)
        try:
            return await talk(client)
        finally:
            await client.close()

    return asyncio.run(asyncio.wait_for(conversation(), 120))


async def asked(client: TwoReplicas, work: EngineSampleRequest) -> list[Event]:
    await client.submit(work)
    return [event async for event in client.events(work.id)]


def assert_complete(work: EngineSampleRequest, events: list[Event]) -> None:
    """Every molecule once, the one that a single engine makes, under the caller's own name, and Done at the end."""
    expected = {event.index: event for event in run(stubs.engine(), work) if isinstance(event, Sampled)}
    found = [event for event in events if isinstance(event, Sampled)]
    assert Counter(event.index for event in found) == dict.fromkeys(expected, 1)
    assert {event.id for event in events} == {work.id}
    assert [type(event) for event in events].count(Done) == 1
    assert isinstance(events[-1], Done)
    for one in found:
        assert np.array_equal(one.atomic_numbers, expected[one.index].atomic_numbers)
        np.testing.assert_allclose(one.positions, expected[one.index].positions, atol=1e-9)


@given(st.integers(1, 2000), st.integers(1, 70), st.integers(0, 10**6))
def test_portions_hold_every_molecule_once_in_order(n: int, replicas: int, first: int) -> None:
    work = sample("a", tuple(i % 29 + 1 for i in range(n)), first_index=first)
    dealt = list(portions(work, replicas))
    assert [size for each in dealt for size in each.n_atoms] == list(work.n_atoms)
    assert [index for each in dealt for index in range(each.first_index, each.first_index + len(each))] == list(
        range(first, first + n)
    )
    assert max(map(len, dealt)) <= PORTION[1]
    assert min(map(len, dealt[:-1]), default=PORTION[0]) >= PORTION[0]


def test_structures_are_dealt_out_as_well() -> None:
    molecules = tuple(Structure(np.array([6]), np.full((1, 3), float(i))) for i in range(40))
    dealt = list(portions(EngineLikelihoodRequest(id="a", molecules=molecules, first_index=5), 2))
    assert [(each.first_index, len(each)) for each in dealt] == [(5, 20), (25, 20)]
    assert [m.positions[0, 0] for each in dealt for m in each.molecules] == list(range(40))


def test_a_large_request_is_done_by_all_replicas() -> None:
    work = sample("large", (5,) * 80)

    async def talk(client: TwoReplicas) -> tuple[list[Event], Counter[str]]:
        return await asked(client, work), client.stage.served

    events, served = converse(talk)
    assert_complete(work, events)
    assert served == {"replica 0": 41, "replica 1": 41}  # forty molecules and Done each


def test_a_replica_that_comes_later_takes_its_part_of_what_waits() -> None:
    work = sample("large", (5,) * 600)

    async def talk(client: TwoReplicas) -> tuple[list[Event], Counter[str]]:
        client.stage.lost = {"replica 0"}
        while len(client.replicas) == 2:
            await asyncio.sleep(0.02)
        listening = asyncio.create_task(asked(client, work))
        while not client.stage.open["replica 1"]:
            await asyncio.sleep(0)
        client.stage.lost = set()
        while not all(client.stage.open[name] for name in client.stage.engines):
            assert not listening.done(), "one portion after the other, as when it came"
            await asyncio.sleep(0.005)
        return await listening, client.stage.served

    events, served = converse(talk, pause=0.002, pairs=600)
    assert_complete(work, events)
    assert all(served[name] > 80 for name in ("replica 0", "replica 1"))  # of portions of 256, 256 and 88


def test_a_killed_replica_loses_nothing_doubles_nothing_changes_nothing() -> None:
    works = [sample(f"work {i}", (5 + i, 8) * 20, frames=2, progress=i == 0) for i in range(3)]
    chance = random.Random(3)

    async def talk(client: TwoReplicas) -> tuple[list[list[Event]], int]:
        kills = 0
        listening = [asyncio.create_task(asked(client, work)) for work in works]
        while not all(task.done() for task in listening):
            next_kill = client.stage.served.total() + chance.randrange(5, 20)
            while client.stage.served.total() < next_kill and not all(task.done() for task in listening):
                await asyncio.sleep(0.005)
            victim = chance.choice(sorted(client.stage.engines))
            kills += client.stage.open[victim] > 0
            client.stage.lost = {victim}  # and the one before is back
        return [task.result() for task in listening], kills

    heard, kills = converse(talk, pause=0.002, pairs=600)
    assert kills > 1
    for work, events in zip(works, heard, strict=True):
        assert_complete(work, [event for event in events if not isinstance(event, Progress)])


def test_a_broken_engine_is_no_answer_the_other_replica_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "enflow.service.client.replica_client.LOSSES", 2
    )  # a refusal is no loss, however often it comes
    work = sample("a", (5,) * 80)

    async def talk(client: TwoReplicas) -> list[Event]:
        listening = asyncio.create_task(asked(client, work))
        while not client.stage.open["replica 0"]:
            await asyncio.sleep(0)
        await client.stage.engines["replica 0"].close()  # which fails its works, and refuses the next
        return await listening

    assert_complete(work, converse(talk, pause=0.002))


def test_what_no_replica_takes_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enflow.service.client.replica_client.PATIENCE", 0.3)

    async def talk(client: TwoReplicas) -> list[Event]:
        for engine in client.stage.engines.values():
            await engine.close()
        return await asked(client, sample("a", (5, 5)))

    first, second, end = converse(talk)
    assert [first.index, second.index] == [0, 1]
    for event in (first, second):
        assert event.reason == Reason.ENGINE
        assert re.fullmatch(r"no replica took it for 0\.3 s: the engine .*", event.detail)
    assert isinstance(end, Done)


def test_what_kills_every_replica_fails_alone() -> None:
    async def talk(client: TwoReplicas) -> list[list[Event]]:
        client.stage.poison = 13
        return await asyncio.gather(asked(client, sample("bad", (13,))), asked(client, sample("good", (5,))))

    bad, good = converse(talk)
    assert [(event.index, event.reason) for event in bad if isinstance(event, Failed)] == [(0, Reason.ENGINE)]
    assert f"{LOSSES} replicas were lost: poisoned" in next(e.detail for e in bad if isinstance(e, Failed))
    assert_complete(sample("good", (5,)), good)


def test_what_is_aborted_leaves_every_replica() -> None:
    async def talk(client: TwoReplicas) -> None:
        await client.submit(sample("large", (20,) * 200))
        while sum(client.stage.open.values()) < 2:
            await asyncio.sleep(0.01)
        await client.abort("large")
        while any(engine.stats().works for engine in client.stage.engines.values()):
            await asyncio.sleep(0.01)
        assert client.stats().queue_units == 0

    converse(talk, pause=0.002)


def test_without_a_replica_it_lives_and_is_not_ready() -> None:
    async def talk(client: TwoReplicas) -> None:
        assert client.health().ready
        assert client.stats().device == "2 x cpu"
        client.stage.lost = set(client.stage.engines)
        while client.health().ready:
            await asyncio.sleep(0.02)
        assert client.health().live
        assert client.health().reason == "there is no engine yet"

    converse(talk)


@pytest.mark.parametrize("works", [0, 1])
def test_drain_waits_for_what_runs(works: int) -> None:
    async def talk(client: TwoReplicas) -> list[Event]:
        if works:
            await client.submit(sample("last", (5,) * 20))
        await client.drain(60)
        assert not client.health().ready
        return [event async for event in client.events("last")] if works else []

    if works:
        assert_complete(sample("last", (5,) * 20), converse(talk))
    else:
        assert converse(talk) == []
