"""The snapshot of an engine, from which another one continues."""

from collections import Counter
from dataclasses import replace

import pytest

from enflow.service.protocol.events import Done
from enflow.service.protocol.requests import (
    EngineSampleRequest,
)
from tests import stubs
from tests.service.engine.engine_runs import assert_same, drain, sample, sampled
from tests.stubs import run


def test_after_a_restart_only_the_missing_samples_count_as_work() -> None:
    engine, ended = stubs.engine(pairs=1), list[str]()
    engine.add(EngineSampleRequest(id="other", seed=7, n_atoms=(18,) * 20, rtol=1e-2))
    engine.add(EngineSampleRequest(id="almost finished", seed=7, n_atoms=(18,) * 60, rtol=1e-2), range(58))
    while not engine.idle:
        ended += [event.id for event in engine.step() if isinstance(event, Done)]
    assert ended == ["almost finished", "other"]


@pytest.mark.parametrize("steps", [0, 4, 9])
@pytest.mark.parametrize("lag", [0, 1])
def test_a_snapshot_goes_on_elsewhere_to_the_same_molecules(steps: int, lag: int) -> None:
    requests = [replace(sample("a", (5, 12, 20, None), frames=3), refinements=1), sample("b", (12,))]
    whole = stubs.engine(pairs=400)
    for request in requests:
        whole.add(request)
    expected = sampled(drain(whole))
    first, second = stubs.engine(pairs=400, lag=lag), stubs.engine(pairs=300)
    for request in requests:
        first.add(request)
    before = [event for _ in range(steps) for event in first.step()]
    second.restore(first.snapshot())
    before += first._requests.take_events()  # the events of the snapshot itself
    after = drain(second)
    found = sampled(before) | sampled(after)
    assert len(sampled(before)) + len(sampled(after)) == len(expected)
    for key, one in found.items():
        assert_same(one, expected[key], 1e-9)
        assert len(one.frames) == len(expected[key].frames)
    assert Counter(event.id for event in before + after if isinstance(event, Done)) == {"a": 1, "b": 1}


def test_a_snapshot_saves_steps() -> None:
    engine = stubs.engine()
    engine.add(sample(n_atoms=(12,)))
    for _ in range(5):
        engine.step()
    other = stubs.engine()
    other.restore(engine.snapshot())
    drain(other)
    whole = stubs.engine()
    list(run(whole, sample(n_atoms=(12,))))
    assert other.stats().steps == whole.stats().steps - 5
