"""Failures in an engine: the reason is said, and no other molecule notices."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from enflow.service.protocol.events import Failed, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EstimatorOptions,
    Structure,
)
from enflow.service.protocol.status import RowKey
from tests import stubs
from tests.service.engine.engine_runs import METHANE, answers, assert_same, sample, sampled
from tests.stubs import run


def test_a_row_that_turns_non_finite_leaves_and_its_neighbours_do_not_notice() -> None:
    expected = sampled(list(run(stubs.engine(), sample(n_atoms=(10, 11, 12)))))
    events = list(run(stubs.engine(non_finite=11), sample(n_atoms=(10, 11, 12))))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.index, event.reason) for event in failed] == [(1, Reason.NON_FINITE)]
    for index in (0, 2):
        assert_same(sampled(events)["s", index], expected["s", index])


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
    assert all(len({*step}) == len(step) for step in recorder.steps)  # a row takes part in one step at a time


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


def test_the_known_answer_is_missed_when_the_device_errs() -> None:
    engine = stubs.engine()
    assert engine.check()
    engine._adapter._flow.dynamics.rate.mul_(1.1)
    assert not engine.check()
    engine._adapter._flow.dynamics.rate.fill_(torch.nan)
    assert not engine.check()
