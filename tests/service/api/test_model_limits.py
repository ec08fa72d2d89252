"""Limits of each model: the first model's do not bound the others."""

from collections.abc import Iterator

import httpx
import pytest

from enflow.service.settings import Settings
from tests.service.api.test_errors import assert_problem
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, tiny_particle_weights, weights_with_card


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service whose first model is of four particles, with a model of molecules beside it."""
    particles = tiny_particle_weights(tmp_path_factory.mktemp("dw4"), "dw4")
    molecules = weights_with_card(tmp_path_factory.mktemp("molecules"))
    settings = Settings(weights=particles, models=(molecules,), chemistry=one_worker())
    with serving(FakeClient(), settings, {molecules: FakeClient()}) as (http, _):
        yield http


def test_limits_are_shown_for_each_model(http: httpx.Client) -> None:
    found = http.get("/limits").json()
    assert found["max_atoms_by_model"] == {"dw4": 4, "tiny": 29}
    assert found["max_atoms"] == 29


def test_a_small_first_model_does_not_bound_a_larger_one(http: httpx.Client) -> None:
    assert http.post("/sample", json={"model": "tiny", "n_atoms": 29}).status_code == 200


def test_a_model_refuses_more_atoms_than_its_own_limit(http: httpx.Client) -> None:
    for model, n_atoms, status in (("dw4", 5, 422), ("dw4", [4, 5], 422), ("tiny", 30, 422), (None, 5, 422)):
        problem = assert_problem(http.post("/sample", json={"model": model, "n_atoms": n_atoms}), status)
        assert problem["errors"][0]["at"] == "/n_atoms"  # type: ignore[index]
