"""The likelihoods of the engine, against the closed form and against the flow."""

import math
from typing import Literal

import numpy as np
import pytest

from enflow.service.engine.requests import RowState
from enflow.service.protocol.events import Done, Scored
from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EstimatorOptions,
)
from tests import stubs
from tests.service.engine.engine_runs import GROWN, METHANE, answers, drain, molecule_of, sample
from tests.stubs import run


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


@pytest.mark.parametrize("divergence", ["hutchinson", "exact"])
def test_the_values_of_a_divergence_are_charged_once(divergence: Literal["hutchinson", "exact"]) -> None:
    engine = stubs.engine(pairs=2000)
    options = EstimatorOptions(divergence, draws=4)
    engine.add(EngineLikelihoodRequest(id="l", molecules=(METHANE,) * 6, options=options))
    charged = spent = 0.0
    schedule = engine._scheduler.schedule

    def recorded() -> list[RowState]:
        nonlocal charged
        batch = schedule()
        charged += sum(row.cost for row in batch if not row.batch_key.moves)
        return batch

    engine._scheduler.schedule = recorded  # type: ignore[method-assign]
    while not engine.idle:
        before = {row: (row.batch_key, row.draw_state.open) for row in engine._scheduler.rows() if row.draw_state}
        engine.step()
        spent += sum(
            engine._budget.cost(key, open_before - row.draw_state.open)
            for row, (key, open_before) in before.items()
            if row.draw_state and not key.moves
        )
    assert spent > 0
    assert charged == pytest.approx(spent, rel=0.2)


def test_the_status_counts_molecules_and_not_their_draws() -> None:
    engine = stubs.engine()
    engine.add(EngineLikelihoodRequest(id="l", molecules=(METHANE,), options=EstimatorOptions(draws=4)))
    assert (engine.stats().waiting, engine.stats().running) == (1, 0)
    while not engine.idle:
        engine.step()
        assert engine.stats().waiting == 0
        assert engine.stats().occupied <= engine.stats().slots
    assert engine.stats().running == 0


def test_likelihoods_do_not_starve_samples() -> None:
    engine = stubs.engine(pairs=200, slots=8)
    options = EstimatorOptions(divergence="hutchinson", probes=1, draws=1)
    engine.add(EngineLikelihoodRequest(id="l", molecules=(METHANE,) * 16, options=options))  # twice the slots
    engine.add(sample("s"))
    ended = [event.id for event in drain(engine) if isinstance(event, Done)]
    assert ended == ["s", "l"]
