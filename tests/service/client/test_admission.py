"""Backpressure: room is cost, and the time to come back follows from the queue."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from enflow.service.client.admission import AdmissionController
from enflow.service.problems import Problem, retry_after
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineSampleRequest,
    EngineVariationRequest,
    EstimatorOptions,
    LatentArrays,
    Structure,
    sample_costs,
)
from enflow.service.protocol.status import Overloaded


def sample(name: str, n: int, client: str = "") -> EngineSampleRequest:
    """A request whose single molecule is not small."""
    return EngineSampleRequest(id=name, seed=0, n_atoms=(28,) * n, rtol=1e-7, client=client)


UNIT = sum(sample_costs(sample("", 1)))


def test_work_grows_with_molecules_and_with_the_square_of_their_atoms() -> None:
    assert sample_costs(sample("", 7)) == [UNIT] * 7
    assert sample_costs(replace(sample("", 1), n_atoms=(14,))) == [UNIT / 4]
    parent = Structure(np.full(14, 6), np.zeros((14, 3)))
    latent = LatentArrays(np.zeros((14, 3)), np.zeros((14, 5)))
    assert (
        sample_costs(EngineVariationRequest(id="", parent=parent, count=3, strength=0.5, rtol=1e-7)) == [UNIT / 4] * 3
    )
    assert sample_costs(EngineDecodeRequest(id="", latents=(latent,), rtol=1e-7)) == [UNIT / 4]
    assert sample_costs(EngineEncodeRequest(id="", molecules=(parent,), rtol=1e-7)) == [UNIT / 4]


def test_an_exact_likelihood_is_dearer_than_a_probe_and_draws_multiply() -> None:
    methane = Structure(np.array([6, 1, 1, 1, 1]), np.zeros((5, 3)))
    exact, probe, draws = (
        sum(sample_costs(EngineLikelihoodRequest(id="", molecules=(methane,), options=options)))
        for options in (EstimatorOptions("exact", draws=1), EstimatorOptions(draws=1), EstimatorOptions(draws=3))
    )
    assert probe < exact
    assert draws == pytest.approx(3 * probe)


def test_a_full_queue_tells_when_there_will_be_room() -> None:
    controller = AdmissionController(seconds=10.0, client_share=1.0, rate=UNIT)  # one molecule a second
    controller.admit(sample("a", 7, client="a"))
    controller.admit(sample("b", 1, client="b"))
    with pytest.raises(Overloaded, match="the service's queue") as caught:
        controller.admit(sample("c", 4, client="b"))
    assert (caught.value.scope, caught.value.retry_after) == ("service", pytest.approx(2.0))  # one of each


def test_the_time_in_the_text_of_a_refusal_is_that_of_the_header() -> None:
    controller = AdmissionController(seconds=9.7, client_share=1.0, rate=UNIT)
    controller.admit(sample("a", 7, client="a"))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("b", 5, client="b"))
    assert caught.value.retry_after == pytest.approx(2.3)
    problem = Problem("unavailable", str(caught.value), headers=retry_after(caught.value.retry_after))
    assert problem.document("id")["detail"] == f"{caught.value}; repeat it in 3 s"
    assert problem.headers == retry_after(3.0) == {"Retry-After": "3"}


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
    assert controller.queued == pytest.approx(10 * UNIT)


def limited(seconds: float = 10.0) -> AdmissionController:
    """A queue of ten molecules at one molecule a second; a client's share is five."""
    return AdmissionController(seconds, client_share=0.5, rate=UNIT)


def test_a_request_larger_than_the_queue_holds_no_more_than_the_share_of_its_client() -> None:
    controller = limited()
    controller.admit(sample("whale", 1000, client="greedy"))
    for i in range(5):
        controller.admit(sample(f"{i}", 1, client=f"other {i}"))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("whale 2", 1000, client="greedy"))
    assert caught.value.scope == "client"
    assert controller.queued_seconds == pytest.approx(1005.0)  # the metric tells all work


@pytest.mark.parametrize("clients", [2, 20])
def test_clients_that_fill_the_queue_do_not_keep_out_one_that_holds_nothing(clients: int) -> None:
    controller, greedy = limited(), 0
    for i in range(clients):
        with contextlib.suppress(Overloaded):
            controller.admit(sample(f"whale {i}", 1000, client=f"greedy {i}"))
            greedy += 1
    controller.admit(sample("newcomer", 1, client="newcomer"))
    assert greedy == 2
    with pytest.raises(Overloaded) as caught:  # the reserve is bounded as well
        controller.admit(sample("newcomer 2", 1, client="newcomer 2"))
    assert caught.value.scope == "service"


def test_a_heavy_request_gets_in_beside_a_small_one_of_anybody() -> None:
    controller = limited()
    controller.admit(sample("small", 1, client="greedy"))
    controller.admit(sample("small too", 1, client="other"))
    controller.admit(sample("whale", 1000, client="greedy"))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("more", 1, client="greedy"))
    assert caught.value.scope == "client"


def test_what_was_promised_to_a_whale_keeps_nobody_out_when_the_queue_is_empty() -> None:
    controller = limited()
    controller.admit(sample("small", 1, client="greedy"))
    controller.admit(sample("whale", 1000, client="greedy"))
    for name, scope in (("second", "client"), ("third", "client")):
        with pytest.raises(Overloaded) as caught:
            controller.admit(sample(name, 10**6, client="greedy"))
        assert caught.value.scope == scope
    controller.release("whale")
    controller.admit(sample("fourth", 2, client="greedy"))  # beside the small one
    controller.release("fourth")
    controller.admit(sample("fifth", 10**6, client="greedy"))


def test_what_was_promised_to_whales_keeps_no_other_client_out() -> None:
    controller = limited()
    for name in ("a", "b"):
        controller.admit(sample(name, 1000, client=name))
    controller.admit(sample("c", 1, client="c"))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("whale", 10**6, client="c"))
    assert caught.value.scope == "service"
    controller.release("a")
    controller.release("b")
    controller.admit(sample("c again", 2, client="c"))


def test_a_request_holds_no_more_time_than_its_deadline_leaves() -> None:
    controller = AdmissionController(10.0, 1.0, rate=UNIT, clock=lambda: 100.0)
    controller.admit(replace(sample("short", 1000), deadline=103.0))
    assert controller.queued_seconds == pytest.approx(3.0)
    controller.admit(sample("b", 7))


def test_the_time_to_come_back_is_that_of_clients_who_share_the_device() -> None:
    controller = limited()
    controller.admit(sample("a", 4, client="a"))
    controller.admit(sample("b", 5, client="b"))
    with pytest.raises(Overloaded) as caught:
        controller.admit(sample("more", 2, client="b"))  # two molecules of each must be finished
    assert (caught.value.scope, caught.value.retry_after) == ("client", pytest.approx(4.0))


def small(name: str, client: str) -> EngineSampleRequest:
    return EngineSampleRequest(id=name, seed=0, n_atoms=(18,), client=client)


def test_the_small_requests_of_jobs_take_no_room_of_others() -> None:
    second = 10 * sum(sample_costs(small("", "")))
    controller = AdmissionController(600, 0.5, rate=second)
    for i in range(100):
        controller.admit(replace(small(f"{i}", client="jobs"), background=True))
    for i in range(20):
        controller.admit(small(f"waited for {i}", client="a"))


def test_small_requests_have_a_short_queue_of_their_own() -> None:
    second = 10 * sum(sample_costs(small("", "")))  # ten small requests in one second
    controller = AdmissionController(600.0, 0.5, rate=second, clock=lambda: 100.0)
    controller.admit(sample("large", 100_000, client="a"))  # beside it, too
    for i in range(30):  # they wait 3 s, or 6 s beside likelihoods
        controller.admit(small(f"{i}", client="a"))
    with pytest.raises(Overloaded, match="small requests") as caught:
        controller.admit(small("one more", client="a"))
    assert (caught.value.scope, caught.value.retry_after) == ("service", 1.0)
    controller.admit(small("newcomer", client="b"))


def test_a_client_that_comes_back_when_it_was_told_to_is_admitted_although_others_came_before_it() -> None:
    now = 0.0
    controller = AdmissionController(10.0, 1.0, rate=UNIT, clock=lambda: now)
    for client in ("a", "b"):
        controller.admit(sample(client, 5, client=client))
    told: dict[float, str] = {}
    for name in "cdef":
        with pytest.raises(Overloaded) as caught:
            controller.admit(sample(name, 2, client="a" if name in "ce" else "b"))
        told[caught.value.retry_after] = name
    assert list(told) == sorted(told)  # each has a time of its own
    assert list(told) == pytest.approx([2.0, 4.0, 6.0, 8.0])
    for finished, (due, name) in enumerate(told.items()):
        now = due
        owner = "ab"[finished % 2]
        for _ in range(2):
            controller.sample_finished(owner)
        with pytest.raises(Overloaded):
            controller.admit(sample("in between", 3, client=owner))
        controller.admit(sample(f"{name} again", 2, client="a" if name in "ce" else "b"))


def test_a_request_that_waits_holds_one_promise_and_gets_in_as_soon_as_there_is_room() -> None:
    controller = AdmissionController(10.0, 1.0, rate=UNIT, clock=lambda: 0.0)
    controller.admit(sample("a", 10))
    for _ in range(5):
        with pytest.raises(Overloaded) as caught:
            controller.admit(sample("waits", 4))
        assert caught.value.retry_after == pytest.approx(4.0)
    controller.release("a")
    controller.admit(sample("waits", 4))
    controller.admit(sample("b", 6))


def test_a_refusal_names_short_times() -> None:
    controller = AdmissionController(0.5, 1.0, rate=UNIT)
    controller.admit(sample("a", 1))
    with pytest.raises(Overloaded, match=r"holds 1 s of computing and this request needs 0\.8 s"):
        controller.admit(replace(sample("b", 1), n_atoms=(25,)))
