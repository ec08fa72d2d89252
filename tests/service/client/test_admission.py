"""Backpressure: room is cost, and the time to come back follows from the queue."""

import numpy as np
import pytest

from enflow.service.client.admission import AdmissionController, cost
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, EstimatorOptions, Structure
from enflow.service.protocol.status import Overloaded


def sample(name: str, n: int, client: str = "") -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=0, n_atoms=(10,) * n, client=client)


UNIT = cost(sample("", 1))


def test_work_grows_with_molecules_and_with_the_square_of_their_atoms() -> None:
    assert cost(sample("", 7)) == 7 * UNIT
    assert cost(EngineSampleRequest(id="", seed=0, n_atoms=(20,))) == 4 * UNIT


def test_an_exact_likelihood_is_dearer_than_a_probe_and_draws_multiply() -> None:
    methane = Structure(np.array([6, 1, 1, 1, 1]), np.zeros((5, 3)))
    exact, probe, draws = (
        cost(EngineLikelihoodRequest(id="", molecules=(methane,), options=options))
        for options in (EstimatorOptions("exact", draws=1), EstimatorOptions(draws=1), EstimatorOptions(draws=3))
    )
    assert probe < exact
    assert draws == pytest.approx(3 * probe)


def test_a_full_queue_tells_when_there_will_be_room() -> None:
    controller = AdmissionController(seconds=10.0, client_share=1.0, rate=UNIT)  # one molecule a second
    controller.admit(sample("a", 8))
    with pytest.raises(Overloaded, match="the service's queue") as caught:
        controller.admit(sample("b", 5))
    assert (caught.value.scope, caught.value.retry_after) == ("service", pytest.approx(3.0))
    controller.admit(sample("c", 2))


def test_a_client_has_a_share() -> None:
    controller = AdmissionController(seconds=10.0, client_share=0.5, rate=UNIT)
    controller.admit(sample("a", 5, client="greedy"))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("b", 1, client="greedy"))
    assert caught.value.scope == "client"
    controller.admit(sample("c", 5, client="other"))


def test_what_ends_makes_room() -> None:
    controller = AdmissionController(seconds=10.0, client_share=1.0, rate=UNIT)
    controller.admit(sample("a", 10))
    controller.release("a")
    controller.release("a")
    controller.admit(sample("b", 10))
    assert controller.queued == 10 * UNIT


def test_what_is_larger_than_the_queue_gets_in_when_it_is_empty() -> None:
    controller = AdmissionController(seconds=10.0, client_share=0.5, rate=UNIT)
    controller.admit(sample("whale", 100))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("whale 2", 100))
    assert caught.value.retry_after == pytest.approx(100.0)
