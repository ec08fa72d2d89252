"""Samples of several rows: refined samples, and likelihoods of several draws."""

from itertools import pairwise

import numpy as np
import pytest

from enflow.service.protocol.events import Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EstimatorOptions,
)
from tests import stubs
from tests.service.engine.engine_runs import METHANE, assert_same, drain, sampled
from tests.stubs import run


@pytest.mark.parametrize("lag", [0, 2])
def test_refined_samples_are_those_of_the_library(lag: int) -> None:
    engine = stubs.engine(pairs=400, lag=lag)
    engine.add(EngineSampleRequest(id="s", seed=7, n_atoms=(5, 12, 18), refinements=2, frames=5))
    plain = EngineSampleRequest(id="t", seed=7, n_atoms=(5, 12))
    engine.add(plain)
    found = sampled(drain(engine))
    expected = stubs.flow().sample([5, 12, 18], seed=7, refinements=2)
    for index, one in enumerate(expected):
        mine = found["s", index]
        assert np.array_equal(mine.atomic_numbers, one.atomic_numbers)
        np.testing.assert_allclose(mine.positions, one.positions, atol=1e-5)
        assert mine.nfe == one.properties["nfe"]
        assert [frame.t for frame in mine.frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
        np.testing.assert_allclose(mine.frames[-1].positions, mine.positions, atol=1e-5)
    for key, one in sampled(list(run(stubs.engine(), plain))).items():
        assert_same(found[key], one, 1e-9)


@pytest.mark.parametrize(
    "request_",
    [
        EngineSampleRequest(id="s", seed=7, n_atoms=(5,) * 60, refinements=3),
        EngineLikelihoodRequest(id="s", seed=7, molecules=(METHANE,) * 60),
    ],
    ids=["refined", "scored"],
)
def test_samples_finish_all_the_time(request_: EngineRequest) -> None:
    """Rows that follow the first ones of a sample go before samples that have not begun."""
    engine, finished, steps = stubs.engine(pairs=200), list[int](), 0
    engine.add(request_)
    while not engine.idle:
        steps += 1
        finished += [steps for event in engine.step() if isinstance(event, Sampled | Scored)]
    assert len(finished) == 60
    assert finished[0] < 0.4 * steps
    assert finished[30] < 0.75 * steps


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_the_share_of_the_work_that_is_done_only_grows(refinements: int) -> None:
    request = EngineSampleRequest(id="s", seed=7, n_atoms=(5,), refinements=refinements, progress=True, rtol=1e-5)
    told = [event for event in run(stubs.engine(), request) if isinstance(event, Progress)]
    shares = [event.share for event in told]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == pytest.approx(1)
    assert sum(b.t < a.t for a, b in pairwise(told)) == refinements


@pytest.mark.parametrize(
    "first",
    [
        EngineSampleRequest(id="s", seed=7, n_atoms=(5,), refinements=2),
        EngineLikelihoodRequest(id="s", seed=7, molecules=(METHANE,), options=EstimatorOptions(target_error=0.1)),
    ],
    ids=["refined", "scored"],
)
def test_a_request_keeps_its_place_between_the_rows_of_a_sample(first: EngineRequest) -> None:
    engine, arrivals = stubs.engine(), set[int]()
    engine.add(first)
    while not engine.idle:
        arrivals |= {queue.arrival for lane in engine._scheduler._lanes.values() for queue in lane.requests.values()}
        engine.step()
    assert arrivals == {1}


def test_a_sample_is_aborted_while_it_is_refined() -> None:
    engine = stubs.engine()
    engine.add(EngineSampleRequest(id="s", seed=7, n_atoms=(5,), refinements=10))
    while engine.stats().running == 0 or next(iter(engine._scheduler.rows())).draw < 2:
        engine.step()
    engine.abort("s")
    assert [event.reason for event in drain(engine) if isinstance(event, Failed)] == [Reason.CANCELLED]
    assert engine.stats().running == engine.stats().waiting == 0
