"""The engine on a flow with a known solution: correct answers in every batch, cancellation and deadlines."""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from enflow.model.flow.arguments import SizeRange
from enflow.service.engine.config import EngineConfig
from enflow.service.engine.core import Engine
from enflow.service.engine.cost_model import GROW_AFTER
from enflow.service.protocol.events import Done, Encoded, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineSampleRequest,
    EngineVariationRequest,
    EstimatorOptions,
)
from tests import stubs
from tests.service.engine.engine_runs import GROWN, METHANE, answers, assert_same, drain, molecule_of, sample, sampled
from tests.stubs import run


def test_a_sample_is_its_latent_grown_by_the_known_solution() -> None:
    events = list(run(stubs.engine(), sample(n_atoms=(5, 18, 29))))
    assert isinstance(events[-1], Done)
    found = sampled(events)
    for index, n_atoms in enumerate((5, 18, 29)):
        latent = stubs.flow().draw_latent(n_atoms, 7, index)
        np.testing.assert_allclose(found["s", index].positions, GROWN * latent.x.numpy(), atol=1e-5)
        assert np.array_equal(found["s", index].atomic_numbers, np.array([1, 6, 7, 8, 9])[latent.h.argmax(-1).numpy()])


def test_the_temperature_scales_the_latent() -> None:
    request = EngineSampleRequest(id="s", seed=7, n_atoms=(5, 18), temperature=0.5)
    found = sampled(list(run(stubs.engine(), request)))
    for index, n_atoms in enumerate((5, 18)):
        latent = stubs.flow().draw_latent(n_atoms, 7, index)
        np.testing.assert_allclose(found["s", index].positions, 0.5 * GROWN * latent.x.numpy(), atol=1e-3)


def test_what_single_precision_cannot_meet_is_stepped_in_double() -> None:
    engine = Engine(stubs.flow(torch.float32), EngineConfig(pairs=2000, slots=8))
    options = EstimatorOptions("exact", rtol=1e-6, atol=1e-6)
    requests = [
        EngineSampleRequest(id="fine", seed=7, n_atoms=(5, 12), rtol=1e-10, atol=1e-10),
        EngineSampleRequest(id="plain", seed=7, n_atoms=(5,), rtol=1e-4, atol=1e-4),
        EngineLikelihoodRequest(id="likelihood", molecules=(METHANE,), seed=3, options=options),
    ]
    for request in requests:
        engine.add(request)
    engine.step()
    second = Engine(stubs.flow(torch.float32), EngineConfig(pairs=2000, slots=8))
    second.restore(engine.snapshot())
    events = drain(second)
    found = sampled(events)
    for index, n_atoms in enumerate((5, 12)):
        latent = stubs.flow().draw_latent(n_atoms, 7, index)
        assert np.abs(found["fine", index].positions - GROWN * latent.x.numpy()).max() < 1e-8
    assert np.abs(found["plain", 0].positions - found["fine", 0].positions).max() < 1e-2
    (scored,) = (event for event in events if isinstance(event, Scored))
    assert scored.parts["divergence"] == pytest.approx(stubs.RATE * (3 * 4 - 25), abs=1e-4)


def test_a_size_that_is_not_given_is_drawn_by_seed_and_index() -> None:
    found = sampled(list(run(stubs.engine(), sample(n_atoms=(None, None), first_index=40))))
    assert [found["s", i].n_atoms for i in (40, 41)] == [stubs.flow().draw_n_atoms(7, i) for i in (40, 41)]
    sizes = SizeRange(5, 9)
    found = sampled(list(run(stubs.engine(), sample(n_atoms=(sizes,) * 8, first_index=40))))
    drawn = [found["s", i].n_atoms for i in range(40, 48)]
    assert drawn == [stubs.flow().draw_n_atoms(7, i, sizes) for i in range(40, 48)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("lag", [0, 1])
def test_a_molecule_is_the_same_alone_in_company_and_joining_late(lag: int) -> None:
    alone = sampled(list(run(stubs.engine(), sample(n_atoms=(11,)))))["s", 0]
    engine = stubs.engine(pairs=600, lag=lag)
    engine.add(sample("crowd", (4, 9, 10, 11, 12, 12, 20, 29), frames=2))
    events = [event for _ in range(9) for event in engine.step()]
    engine.add(sample("late", (11,)))
    events += drain(engine)
    assert_same(sampled(events)["late", 0], alone)
    assert len(sampled(events)) == 9


def test_decode_is_the_inverse_of_encode() -> None:
    engine = stubs.engine()
    (encoded,) = answers(list(run(engine, EngineEncodeRequest(id="e", molecules=(METHANE,), seed=1))))
    assert isinstance(encoded, Encoded)
    np.testing.assert_allclose(encoded.latent.x, METHANE.positions / GROWN, atol=1e-5)
    (decoded,) = answers(list(run(engine, EngineDecodeRequest(id="d", latents=(encoded.latent,)))))
    assert isinstance(decoded, Sampled)
    assert np.array_equal(decoded.atomic_numbers, METHANE.atomic_numbers)
    np.testing.assert_allclose(decoded.positions, METHANE.positions, atol=1e-4)


def test_variations_begin_at_their_time_and_are_those_of_the_library() -> None:
    request = EngineVariationRequest(id="v", parent=METHANE, count=3, strength=0.3, seed=5, first_index=2)
    found = {event.index: event for event in answers(list(run(stubs.engine(), request))) if isinstance(event, Sampled)}
    assert sorted(found) == [2, 3, 4]
    for index, event in found.items():
        start = stubs.flow().noised(molecule_of(METHANE), 0.7, 5, index)
        # The rate's integral from 0.7 to 1.
        grown = math.exp(stubs.RATE * (0.3 + (math.cos(1.4 * math.pi) - 1) / (2 * math.pi)))
        np.testing.assert_allclose(event.positions, grown * start.x.numpy(), atol=1e-3)
    (same,) = answers(list(run(stubs.engine(), replace(request, count=1, strength=0.0))))
    assert isinstance(same, Sampled)
    np.testing.assert_allclose(same.positions, METHANE.positions, atol=1e-6)


def test_frames_are_evenly_spaced_and_lie_on_the_path() -> None:
    events = list(run(stubs.engine(), sample(frames=5, progress=True)))
    (found,) = sampled(events).values()
    latent = stubs.flow().draw_latent(5, 7, 0)
    assert [frame.t for frame in found.frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for frame in found.frames:
        grown = math.exp(stubs.RATE * (frame.t + (1 - math.cos(2 * math.pi * frame.t)) / (2 * math.pi)))
        np.testing.assert_allclose(frame.positions, grown * latent.x.numpy(), atol=1e-4)
        np.testing.assert_allclose(frame.features, latent.h.numpy() / grown, atol=1e-4)
    np.testing.assert_allclose(found.frames[-1].positions, found.positions, atol=1e-9)
    progress = [event for event in events if isinstance(event, Progress)]
    times = [event.t for event in progress]
    assert times == sorted(times)
    assert times[-1] == 1.0


def test_a_deadline_ends_a_work_whether_it_waits_or_runs() -> None:
    now = 100.0
    engine = Engine(stubs.flow(), EngineConfig(pairs=150), clock=lambda: now)
    engine.add(sample("late", (12, 12, 12), deadline=101.0))
    engine.add(sample("free", (12,)))
    engine.step()
    now = 101.0
    events = engine.step()
    assert Counter(type(event) for event in events if event.id == "late") == {Failed: 3, Done: 1}
    assert {event.reason for event in events if isinstance(event, Failed)} == {Reason.DEADLINE}
    assert isinstance(drain(engine)[-1], Done)


def test_steps_of_an_idle_engine_do_not_let_its_budget_grow() -> None:
    engine = stubs.engine(pairs=2000)
    engine._budget.halve()
    for _ in range(2 * GROW_AFTER):
        engine.step()
    assert engine._budget.pairs == 1000


def test_abort_frees_the_rows_at_once_and_may_come_too_late() -> None:
    engine = stubs.engine(lag=1)
    engine.add(sample("gone", (12,) * 20))
    engine.step()
    engine.abort("gone")
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    events = drain(engine)
    assert Counter(type(event) for event in events) == {Failed: 20, Done: 1}
    engine.abort("gone")
    assert engine.idle
    assert isinstance(list(run(engine, sample("next")))[-1], Done)


class Life(RuleBasedStateMachine):
    """Requests come and are aborted between steps: one answer per molecule, then Done, then nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = stubs.engine(pairs=300, slots=4, non_finite=6, lag=1)
        self.wanted: dict[str, int] = {}
        self.answered: dict[str, Counter[int]] = defaultdict(Counter)
        self.done: Counter[str] = Counter()

    @rule(n_atoms=st.lists(st.integers(3, 7), min_size=0, max_size=6), frames=st.integers(0, 2), score=st.booleans())
    def add(self, n_atoms: list[int], frames: int, score: bool) -> None:
        name = f"request {len(self.wanted)}"
        self.wanted[name] = len(n_atoms)
        if score:
            options = EstimatorOptions(divergence="hutchinson", probes=1, draws=2)
            molecules = (METHANE,) * len(n_atoms)
            self.engine.add(EngineLikelihoodRequest(id=name, molecules=molecules, seed=1, options=options))
        else:
            self.engine.add(EngineSampleRequest(id=name, seed=1, n_atoms=tuple(n_atoms), frames=frames))

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            for event in self.engine.step():
                self.receive(event)

    def receive(self, event: Event) -> None:
        assert not self.done[event.id], "silence after Done"
        if isinstance(event, Done):
            self.done[event.id] += 1
        elif not isinstance(event, Progress):
            self.answered[event.id][event.index] += 1

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.engine.abort(data.draw(st.sampled_from(sorted(self.wanted))))

    def teardown(self) -> None:
        for event in drain(self.engine):
            self.receive(event)
        assert self.done == dict.fromkeys(self.wanted, 1)
        for name, count in self.wanted.items():
            assert self.answered[name] == dict.fromkeys(range(count), 1)
        assert (self.engine.stats().running, self.engine.stats().waiting) == (0, 0)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=6, stateful_step_count=10, deadline=None)
