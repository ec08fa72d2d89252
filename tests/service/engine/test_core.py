"""The engine on a flow with a known solution: correct answers in every batch, and every kind of failure."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from enflow.service.engine.config import EngineConfig
from enflow.service.engine.core import Engine
from enflow.service.protocol.events import Done, Encoded, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EngineVariationRequest,
    EstimatorOptions,
)
from tests import stubs
from tests.service.engine.engine_runs import METHANE, answers, assert_same, drain, molecule_of, sample, sampled
from tests.stubs import run

GROWN = math.exp(stubs.RATE)


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


def test_after_a_restart_only_the_missing_samples_count_as_work() -> None:
    engine, ended = stubs.engine(pairs=1), list[str]()
    engine.add(EngineSampleRequest(id="other", seed=7, n_atoms=(18,) * 20, rtol=1e-2))
    engine.add(EngineSampleRequest(id="almost finished", seed=7, n_atoms=(18,) * 60, rtol=1e-2), range(58))
    while not engine.idle:
        ended += [event.id for event in engine.step() if isinstance(event, Done)]
    assert ended == ["almost finished", "other"]


def test_a_sample_is_aborted_while_it_is_refined() -> None:
    engine = stubs.engine()
    engine.add(EngineSampleRequest(id="s", seed=7, n_atoms=(5,), refinements=10))
    while engine.stats().running == 0 or next(iter(engine._scheduler.rows())).draw < 2:
        engine.step()
    engine.abort("s")
    assert [event.reason for event in drain(engine) if isinstance(event, Failed)] == [Reason.CANCELLED]
    assert engine.stats().running == engine.stats().waiting == 0


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


def test_a_likelihood_is_the_closed_form() -> None:
    options = EstimatorOptions("exact", draws=1, rtol=1e-5, atol=1e-5)
    events = list(run(stubs.engine(), EngineLikelihoodRequest(id="l", molecules=(METHANE,), seed=3, options=options)))
    (scored,) = answers(events)
    assert isinstance(scored, Scored)
    n, rate = 5, stubs.RATE
    # z = exp(-rate) x, exp(rate) h and tr J = rate (3 (N - 1) - 5 N), integrated over a mean of one.
    assert scored.parts["divergence"] == pytest.approx(rate * (3 * (n - 1) - 5 * n), abs=1e-3)
    flow = stubs.flow()
    form = flow.canonical_form(molecule_of(METHANE))
    lifted = flow.dequantize([form.molecule], 3, [form.key])
    base = -float(flow.log_prob_base(lifted.x / GROWN, lifted.h * GROWN, lifted.mask))
    assert scored.parts["base"] == pytest.approx(base, abs=1e-3)
    assert scored.parts["dequantizer"] == pytest.approx(float(lifted.log_q), abs=1e-9)
    assert scored.nll == pytest.approx(sum(scored.parts.values()), abs=1e-9)
    assert scored.std_error is None
    for t, log_density in scored.path:
        grown = rate * (t + (1 - math.cos(2 * math.pi * t)) / (2 * math.pi))
        assert log_density == pytest.approx(-base - grown * (3 * (n - 1) - 5 * n), abs=2e-3)
    assert sum(scored.atoms) == pytest.approx(base, abs=1e-3)
    squares = 0.5 * ((lifted.x[0] / GROWN).square().sum(-1) + (lifted.h[0] * GROWN).square().sum(-1))
    assert np.ptp(np.array(scored.atoms)[form.order] - squares.numpy()) < 1e-3


def test_an_estimated_density_leads_from_the_base_to_the_data() -> None:
    options = EstimatorOptions(divergence="hutchinson", probes=3, draws=1, rtol=1e-5, atol=1e-5)
    request = EngineLikelihoodRequest(id="l", molecules=(METHANE,), seed=3, options=options)
    (scored,) = answers(list(run(stubs.engine(), request)))
    assert isinstance(scored, Scored)
    times, density = np.array(scored.path).T
    assert np.all(np.diff(times) > 0)
    ends = -scored.parts["base"], -scored.parts["base"] - scored.parts["divergence"]
    np.testing.assert_allclose((density[0], density[-1]), ends, atol=0.05)  # the nodes lie within (0, 1)
    # The density grows as the stub's rate does, up to the noise of the probes, which are new at every node.
    grown = times + (1 - np.cos(2 * np.pi * times)) / (2 * np.pi)
    np.testing.assert_allclose((density - ends[0]) / (ends[1] - ends[0]), grown, atol=0.05)


def test_the_engine_scores_as_the_flow_does() -> None:
    options = EstimatorOptions(divergence="hutchinson", probes=2, draws=3)
    events = run(stubs.engine(), EngineLikelihoodRequest(id="l", molecules=(METHANE, METHANE), seed=3, options=options))
    expected = stubs.flow().log_prob([molecule_of(METHANE)] * 2, 3, probes=2, draws=3)
    for event in answers(list(events)):
        assert isinstance(event, Scored)
        assert event.nll == pytest.approx(expected[event.index].nll, abs=1e-6)
        assert event.std_error == pytest.approx(expected[event.index].std_error, abs=1e-6)


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


def test_likelihoods_do_not_starve_samples() -> None:
    engine = stubs.engine(pairs=200, slots=8)
    options = EstimatorOptions(divergence="hutchinson", probes=1, draws=1)
    engine.add(EngineLikelihoodRequest(id="l", molecules=(METHANE,) * 16, options=options))  # twice the slots
    engine.add(sample("s"))
    ended = [event.id for event in drain(engine) if isinstance(event, Done)]
    assert ended == ["s", "l"]


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
