"""Conversations with a client of an engine, shared by the tests of clients."""

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from enflow.service.client.config import ClientConfig, EngineSpec
from enflow.service.client.lazy_client import LazyClient
from enflow.service.client.process_client import ProcessClient
from enflow.service.protocol.events import Done, Event, Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from tests import stubs
from tests.service.local_replicas import InProcessClient
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
