"""Requests of jobs in the engine: the same answers, and what somebody waits for comes first."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from enflow.service.engine.config import LANES
from enflow.service.protocol.events import Done, Encoded, Event, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EstimatorOptions,
    LatentArrays,
)
from tests import stubs
from tests.service.fake_client import METHANE
from tests.stubs import run

LATENT = LatentArrays(METHANE.positions, np.eye(5))
EXACT = EstimatorOptions("exact", draws=2, rtol=1e-4, atol=1e-4)
REQUESTS: dict[str, Callable[..., EngineRequest]] = {
    "sample": lambda **more: EngineSampleRequest(seed=7, n_atoms=(5, 9), frames=3, **more),
    "likelihood": lambda **more: EngineLikelihoodRequest(molecules=(METHANE,), options=EXACT, **more),
    "encode": lambda **more: EngineEncodeRequest(molecules=(METHANE,), **more),
    "decode": lambda **more: EngineDecodeRequest(latents=(LATENT,), first_index=4, **more),
}


def numbers(event: Event) -> list[object]:
    match event:
        case Sampled():
            return [event.index, event.positions.tolist(), len(event.frames)]
        case Scored():
            return [event.index, event.nll]
        case Encoded():
            return [event.index, event.latent.x.tolist(), event.latent.h.tolist()]
    return []


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_answers_are_those_of_other_requests(kind: str) -> None:
    request = REQUESTS[kind](id="a")
    found = [
        [numbers(event) for event in run(stubs.engine(), replace(request, background=background))]
        for background in (False, True)
    ]
    assert found[0] == found[1]
    assert any(found[0])


def test_a_request_takes_nearly_the_whole_device_from_a_job() -> None:
    engine = stubs.engine()
    job = EngineSampleRequest(id="job", seed=1, n_atoms=(9,) * 400, rtol=1e-6, atol=1e-6, background=True)
    engine.add(job)
    for _ in range(20):
        engine.step()
    before = engine.stats()
    asked = EngineSampleRequest(id="asked", seed=2, n_atoms=(9,) * 100, rtol=1e-6, atol=1e-6)
    events = list(run(engine, asked))
    after = engine.stats()
    assert isinstance(events[-1], Done)
    alone = stubs.engine()
    list(run(alone, asked))
    steps = after.row_steps - before.row_steps
    share = LANES["background"] / LANES["sample"]
    assert steps <= alone.stats().row_steps * (1 + 2 * share) + 100, "the job had more than its share"
    assert steps > alone.stats().row_steps, "the job had nothing"
