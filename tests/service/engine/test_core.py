"""The engine on a flow with a known solution: correct answers in every batch, and every kind of failure."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

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
    EngineSampleRequest,
    EstimatorOptions,
    Structure,
)
from enflow.service.protocol.status import RowKey
from tests import stubs
from tests.stubs import run

GROWN = math.exp(stubs.RATE)
METHANE = Structure(
    np.array([6, 1, 1, 1, 1]),
    0.63 * np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]),
)


def sample(name: str = "s", n_atoms: tuple[int | None, ...] = (5,), **options: Any) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=7, n_atoms=n_atoms, rtol=1e-6, atol=1e-6, **options)


def drain(engine: Engine, limit: int = 5000) -> list[Event]:
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
        limit -= 1
        assert limit, "the engine does not come to an end"
    return events


def answers(events: list[Event]) -> list[Sampled | Scored | Encoded | Failed]:
    return [event for event in events if isinstance(event, Sampled | Scored | Encoded | Failed)]


def sampled(events: list[Event]) -> dict[tuple[str, int], Sampled]:
    return {(event.id, event.index): event for event in events if isinstance(event, Sampled)}


def assert_same(one: Sampled, other: Sampled, tolerance: float = 1e-12) -> None:
    assert np.array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_allclose(one.positions, other.positions, atol=tolerance, rtol=0)
    assert one.nfe == other.nfe


def test_a_sample_is_its_latent_grown_by_the_known_solution() -> None:
    events = list(run(stubs.engine(), sample(n_atoms=(5, 18, 29))))
    assert isinstance(events[-1], Done)
    found = sampled(events)
    for index, n_atoms in enumerate((5, 18, 29)):
        latent = stubs.flow().draw_latent(n_atoms, 7, index)
        np.testing.assert_allclose(found["s", index].positions, GROWN * latent.x.numpy(), atol=1e-5)
        assert np.array_equal(found["s", index].atomic_numbers, np.array([1, 6, 7, 8, 9])[latent.h.argmax(-1).numpy()])


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
    form = flow.canonical_form(_molecule(METHANE))
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
    expected = stubs.flow().log_prob([_molecule(METHANE)] * 2, 3, probes=2, draws=3)
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


def test_a_row_that_turns_non_finite_leaves_and_its_neighbours_do_not_notice() -> None:
    healthy = sampled(list(run(stubs.engine(), sample(n_atoms=(10, 11, 12)))))
    events = list(run(stubs.engine(sick=11), sample(n_atoms=(10, 11, 12))))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.index, event.reason) for event in failed] == [(1, Reason.NON_FINITE)]
    for index in (0, 2):
        assert_same(sampled(events)["s", index], healthy["s", index])


def test_a_row_that_needs_too_many_steps_is_given_up() -> None:
    (found,) = answers(list(run(stubs.engine(max_steps=3), sample())))
    assert isinstance(found, Failed)
    assert found.reason == Reason.MAX_STEPS


def test_a_structure_that_the_model_does_not_know_spoils_no_other() -> None:
    silane = Structure(np.array([14, 1, 1, 1, 1]), METHANE.positions)
    options = EstimatorOptions(divergence="hutchinson")
    events = list(run(stubs.engine(), EngineLikelihoodRequest(id="l", molecules=(silane, METHANE), options=options)))
    first, second = sorted(answers(events), key=lambda event: event.index)
    assert isinstance(first, Failed)
    assert first.reason == Reason.STRUCTURE
    assert "Si" in first.detail
    assert isinstance(second, Scored)


def test_a_size_beyond_the_model_fails_alone() -> None:
    events = answers(list(run(stubs.engine(), sample(n_atoms=(30, 5)))))
    assert [(type(event), event.index) for event in events] == [(Failed, 0), (Sampled, 1)]


def test_out_of_memory_halves_the_room_and_changes_no_molecule() -> None:
    request = sample(n_atoms=(12,) * 10)
    ample = sampled(list(run(stubs.engine(pairs=2000), request)))
    engine = stubs.engine(pairs=2000)
    dynamics = engine._adapter._flow.dynamics  # the device shrinks after the start
    dynamics.memory = 500
    short = sampled(list(run(engine, request)))
    assert short.keys() == ample.keys()
    for key, one in short.items():
        assert_same(one, ample[key])
    assert dynamics.largest <= 2000
    dynamics.largest = 0
    list(run(engine, sample("again", (12,) * 10)))
    assert 0 < dynamics.largest <= 500  # remembered


def test_a_molecule_that_fits_no_memory_fails_with_its_reason() -> None:
    engine = stubs.engine()
    engine._adapter._flow.dynamics.memory = 200
    events = answers(list(run(engine, sample(n_atoms=(20, 10)))))
    assert {(event.index, getattr(event, "reason", None)) for event in events} == {(0, Reason.MEMORY), (1, None)}


def test_a_molecule_that_raises_takes_no_other_with_it() -> None:
    events = answers(list(run(stubs.engine(poison=11), sample(n_atoms=(10, 11, 12, 11, 12)))))
    reasons = {event.index: getattr(event, "reason", None) for event in events}
    assert reasons == {0: None, 1: Reason.ENGINE, 2: None, 3: Reason.ENGINE, 4: None}
    assert any("IndexError" in event.detail for event in events if isinstance(event, Failed))


class Recorder:
    """An observer that keeps what it receives."""

    def __init__(self) -> None:
        self.steps: list[list[RowKey]] = []
        self.failures: list[tuple[list[RowKey], str]] = []

    def step_begins(self, rows: Sequence[RowKey]) -> None:
        self.steps.append(list(rows))

    def step_failed(self, rows: Sequence[RowKey], trace: str) -> None:
        self.failures.append((list(rows), trace))


@pytest.mark.parametrize("lag", [0, 1])
def test_an_observer_knows_the_rows_of_every_step_and_the_traceback_of_a_failure(lag: int) -> None:
    engine, recorder = stubs.engine(poison=11, lag=lag), Recorder()
    engine.observer = recorder
    list(run(engine, sample("r", (10, 11))))
    rows, trace = recorder.failures[-1]
    assert rows == [("r", 1, 0)]
    assert "IndexError: a defect" in trace
    assert 'File "' in trace
    assert {key for step in recorder.steps for key in step} == {("r", 0, 0), ("r", 1, 0)}


def test_out_of_memory_is_counted_and_a_larger_memory_is_used_again() -> None:
    engine = stubs.engine(pairs=2000)
    dynamics = engine._adapter._flow.dynamics
    dynamics.memory = 1000
    list(run(engine, sample("short", (12,) * 10)))
    assert engine.stats().memory_errors == 1
    dynamics.memory, dynamics.largest = math.inf, 0
    while dynamics.largest <= 1000 and engine.stats().steps < 2000:
        list(run(engine, sample("ample", (12,) * 12)))
    assert dynamics.largest > 1000


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
    requests = [sample("a", (5, 12, 20, None), frames=3), sample("b", (12,))]
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
    engine = stubs.engine()
    options = EstimatorOptions(divergence="hutchinson", probes=8)
    engine.add(EngineLikelihoodRequest(id="l", molecules=(METHANE,) * 30, options=options))
    engine.add(sample("s"))
    ended = [event.id for event in drain(engine) if isinstance(event, Done)]
    assert ended == ["s", "l"]


def test_the_known_answer_is_missed_when_the_device_errs() -> None:
    engine = stubs.engine()
    assert engine.check()
    engine._adapter._flow.dynamics.rate.mul_(1.1)
    assert not engine.check()
    engine._adapter._flow.dynamics.rate.fill_(torch.nan)
    assert not engine.check()


class Life(RuleBasedStateMachine):
    """Requests come and are aborted between steps: one answer per molecule, then Done, then nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = stubs.engine(pairs=300, slots=4, sick=6, lag=1)
        self.wanted: dict[str, int] = {}
        self.answered: dict[str, Counter[int]] = defaultdict(Counter)
        self.done: Counter[str] = Counter()

    @rule(n_atoms=st.lists(st.integers(3, 7), min_size=0, max_size=6), frames=st.integers(0, 2), score=st.booleans())
    def add(self, n_atoms: list[int], frames: int, score: bool) -> None:
        name = f"request {len(self.wanted)}"
        self.wanted[name] = len(n_atoms)
        if score:
            options = EstimatorOptions(divergence="hutchinson")
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


def _molecule(structure: Structure) -> Any:
    from enflow.model.chem.molecule import Molecule

    return Molecule(structure.atomic_numbers, structure.positions)
