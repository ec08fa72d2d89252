"""The contract of every client of an engine: one answer for each sample, then Done."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from enflow.service.client.config import EngineSpec
from enflow.service.client.process_client import ProcessClient
from enflow.service.protocol.events import Done, Event, Failed, Reason, Sampled
from enflow.service.protocol.status import Overloaded
from tests.service.client.conversations import (
    CONFIG,
    Run,
    answer,
    assert_complete,
    events_of,
    expected,
    lazy,
    ready,
    sample,
)
from tests.service.local_replicas import InProcessClient, OverSocket, TwoReplicas


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
