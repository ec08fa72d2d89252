"""enflow.Client against a running service, through a network that breaks."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Literal, get_type_hints

import numpy as np
import pytest
from pydantic.fields import FieldInfo

import enflow
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.service.http_client import connection, params
from enflow.service.http_client.client import structures
from enflow.service.protocol.events import Event
from enflow.service.protocol.requests import EngineRequest, Structure
from enflow.service.protocol.status import Overloaded
from enflow.service.schemas import requests
from tests.service.conftest import Api, eventually
from tests.service.fake_client import METHANE
from tests.service.http_client.breaking_proxy import BreakingProxy, breaking

CH4 = Molecule(METHANE.atomic_numbers, METHANE.positions)


def scaled(index: int) -> Structure:
    """Return methane whose size tells its index."""
    return Structure(METHANE.atomic_numbers, METHANE.positions * (1 + index / 1000))


@pytest.fixture
def client(api: Api) -> Iterator[enflow.Client]:
    with enflow.Client(str(api.http.base_url)) as client:
        yield client


@pytest.fixture
def proxy(api: Api) -> Iterator[BreakingProxy]:
    with breaking(api.http.base_url) as proxy:
        yield proxy


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before repetitions, which take no time."""
    found: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=found.append))
    return found


def refuse(api: Api, monkeypatch: pytest.MonkeyPatch, refusal: Overloaded, times: int) -> list[EngineRequest]:
    """Refuse some requests; return the requests as they come, the refused ones included."""
    asked, submit = [], api.client.submit

    async def refusing(request: EngineRequest) -> None:
        asked.append(request)
        if len(asked) <= times:
            raise refusal
        await submit(request)

    monkeypatch.setattr(api.client, "submit", refusing)
    return asked


# The endpoints


def test_molecules_are_those_of_the_answer(api: Api, client: enflow.Client) -> None:
    api.client.molecule = scaled
    request = {"n_molecules": 3, "n_atoms": 5, "seed": 7, "with_nll": True}
    answer = api.http.post("/sample", json=request).json()
    found = client.sample(n_molecules=3, n_atoms=5, seed=7, with_nll=True)
    assert (found.seed, found.model, found.failed, found.attempts) == (
        7,
        *(answer[k] for k in ("model", "failed", "attempts")),
    )
    assert [each["sdf"] for each in found.documents] == [each["sdf"] for each in answer["molecules"]]
    for index, (molecule, document) in enumerate(zip(found, answer["molecules"], strict=True)):
        assert molecule == Molecule(*scaled(index))
        for name in ("index", "seed", "smiles", "valid", "stable", "nfe", "solver_status", "nll"):
            assert molecule.properties[name] == document[name]
        assert molecule.properties["nll_std_error"] == document["std_error"]
    assert "3Dmol" in found._repr_html_()


def test_molecules_come_in_the_order_asked_for_with_their_properties(api: Api, client: enflow.Client) -> None:
    water = Structure(np.array([8, 1, 1]), np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]))
    api.client.molecule = lambda index: water if index == 1 else METHANE
    found = client.sample(n_molecules=3, sort="-weight", seed=0)
    assert [each.properties["index"] for each in found] == [1, 0, 2]
    assert [each["index"] for each in found.documents] == [1, 0, 2]
    assert found[0].properties["weight"] == pytest.approx(18.02, abs=0.01)


def test_molecules_come_as_they_finish_and_a_caller_that_stops_cancels_the_rest(
    api: Api, client: enflow.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def events(request_id: str) -> AsyncIterator[Event]:
        (request,) = (each for each in api.client.submitted if each.id == request_id)
        yield api.client._results(request)[0]
        await asyncio.sleep(600)

    monkeypatch.setattr(api.client, "events", events)
    found = client.samples(n_molecules=2)
    assert next(found) == CH4
    assert not api.client.aborted
    found.close()
    eventually(lambda: len(api.client.aborted) == 1)


def test_sizes_are_taken_as_the_flow_takes_them(client: enflow.Client) -> None:
    for n_atoms in (np.int64(5), np.array([5]), range(5, 6), (5,)):
        assert list(client.sample(n_molecules=1, n_atoms=n_atoms)) == [CH4]  # type: ignore[arg-type]


def test_scores_are_in_order_and_a_failure_stands_in_its_place(api: Api, client: enflow.Client) -> None:
    api.client.unscored = {1}
    found = client.log_prob([CH4, CH4, Molecule([14], [[0, 0, 0]]), CH4], seed=0)
    assert [each.nll for each in found] == pytest.approx([-0.5, math.nan, math.nan, -0.5], nan_ok=True)
    answer = api.http.post("/likelihood", json={"structures": structures([CH4]), "seed": 0}).json()["results"][0]
    assert (found[0].parts, found[0].document) == (answer["parts"], answer)
    assert [each.log_prob for each in client.log_prob(CH4.to_rdkit(), seed=0)] == [0.5]
    with pytest.raises(StructureError, match="molecule 2: found a str"):
        client.log_prob([CH4, "CH4"])
    assert "the likelihood is nan" in found[1].error
    assert found[2].error.startswith("found Si as atom 1")


def test_walks_are_those_of_the_answers(api: Api, client: enflow.Client) -> None:
    far = Molecule(*scaled(100))
    body = {"structures": structures([CH4]), "n_molecules": 3, "seed": 1}
    near = client.variations(far, n_molecules=3, seed=1)
    assert [each.properties["kept"] for each in near] == ["graph"] * 3
    assert near.attempts == api.http.post("/variations", json=body).json()["attempts"]
    walk = client.interpolate(CH4, far, steps=3, seed=1, tolerance="draft")
    assert [each.properties["fraction"] for each in walk] == [0, 0.5, 1]
    assert walk.attempts is None
    body = {"structures": structures([CH4, far]), "steps": 3, "seed": 1, "tolerance": "draft"}
    assert walk.warnings == api.http.post("/interpolate", json=body).json()["warnings"]
    assert [each[:11] for each in walk.warnings] == ["structure 2"]  # the fake engine decodes to methane


def test_models_and_limits(api: Api, client: enflow.Client) -> None:
    assert client.models() == api.http.get("/models").json()["models"]
    assert client.limits() == api.http.get("/limits").json()


@pytest.mark.parametrize(
    ("fields", "request_model"),
    [
        (params.SampleParams, requests.SampleRequest),
        (params.LikelihoodParams, requests.LikelihoodOptions),
        (params.InterpolateParams, requests.InterpolateOptions),
        (params.VariationsParams, requests.VariationsOptions),
    ],
)
def test_the_parameters_are_the_fields_of_the_requests(fields: type, request_model: type[requests.Document]) -> None:
    named = {name for name, field in request_model.model_fields.items() if not _deprecated(field)}
    assert set(get_type_hints(fields)) == named


def _deprecated(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("deprecated"))


def test_a_wrong_request_is_an_error_with_the_words_of_the_service(client: enflow.Client) -> None:
    with pytest.raises(enflow.ServiceError, match="n_molecules: Input should be greater") as refused:
        client.sample(n_molecules=0)
    assert (refused.value.status, refused.value.problem["status"]) == (422, 422)
    with pytest.raises(enflow.ServiceError, match="colour: found a field colour, which does not exist here"):
        client.sample(colour="red")  # type: ignore[call-arg]
    with pytest.raises(enflow.ServiceError, match="found no job with this id"):
        client.job("0" * 32)


# Refusals, and connections that break


@pytest.mark.parametrize(("scope", "seconds", "named"), [("service", 6.2, 7), ("client", 90.4, 91)])
def test_a_refused_request_is_repeated_at_the_time_that_the_service_names(
    api: Api,
    client: enflow.Client,
    monkeypatch: pytest.MonkeyPatch,
    sleeps: list[float],
    scope: Literal["service", "client"],
    seconds: float,
    named: int,
) -> None:
    asked = refuse(api, monkeypatch, Overloaded(scope, seconds, "the queue is full"), 2)
    assert list(client.sample(n_molecules=1)) == [CH4]
    assert (sleeps, len(asked)) == ([named, named], 3)


def test_a_service_that_asks_for_more_than_the_patience_is_not_asked_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    asked = refuse(api, monkeypatch, Overloaded("service", 1000, "the queue is full"), 9)
    with enflow.Client(str(api.http.base_url), patience_s=600) as client, pytest.raises(enflow.ServiceError) as refused:
        client.sample()
    assert str(refused.value) == "the queue is full; repeat it in 1000 s"
    assert (refused.value.status, refused.value.retry_after) == (503, 1000)
    assert (sleeps, len(asked)) == ([], 1)


@pytest.mark.parametrize("cuts", [[0], [1], [400], [2500], [2500, 0, 3900]])
def test_a_stream_that_breaks_gives_every_molecule_of_its_seed_once(
    api: Api, proxy: BreakingProxy, sleeps: list[float], cuts: list[int]
) -> None:
    api.client.molecule = scaled
    proxy.cuts = cuts
    with enflow.Client(proxy.url) as client:
        found = list(client.samples(n_molecules=9, n_atoms=5))
    assert sorted(each.properties["index"] for each in found) == list(range(9))
    assert len({each.properties["seed"] for each in found} - {None}) == 1 + (len(cuts) > 1 and cuts[0] < 1000)
    assert all(each == Molecule(*scaled(each.properties["index"])) for each in found)
    assert len(proxy.requests) == len(cuts) + 1


def test_a_stream_that_breaks_without_a_result_is_given_up(proxy: BreakingProxy, sleeps: list[float]) -> None:
    proxy.cuts = [700] * 50
    with enflow.Client(proxy.url) as client, pytest.raises(enflow.ServiceError, match="the connection broke"):
        client.sample(n_molecules=9, n_atoms=5)
    assert len(proxy.requests) == connection.BREAKS + 1


def test_a_job_whose_answer_is_lost_is_not_started_twice(api: Api, proxy: BreakingProxy, sleeps: list[float]) -> None:
    proxy.cuts = [0]
    with enflow.Client(proxy.url) as client, pytest.raises(enflow.ServiceError, match="the connection broke"):
        client.submit(sample={"n_atoms": 5})
    assert len(api.http.get("/jobs").json()["jobs"]) == 1


def test_a_service_that_was_there_is_waited_for(proxy: BreakingProxy, sleeps: list[float]) -> None:
    """A port without a listener is first a wrong address, and later a service that is being restarted."""
    with enflow.Client("http://127.0.0.1:0", patience_s=3) as client:
        with pytest.raises(enflow.ServiceError, match=r"found no service \(ConnectError\); start it by `enflow serve`"):
            client.sample()
        assert sleeps == []
        client._connection._answered = True
        with pytest.raises(enflow.ServiceError, match="found no service"):
            client.sample()
    assert 0.5 <= sleeps[0] <= 1
    assert max(sleeps) <= 3


def test_an_answer_that_takes_many_times_its_estimate_is_given_up(
    api: Api, client: enflow.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LONGEST", 1e-9)
    request = {"n_molecules": 20, "n_atoms": 10}
    api.client.rate = 1e9
    assert len(client.sample(**request)) == 20  # no estimate: it is short
    api.client.rate = 1e3
    with pytest.raises(enflow.ServiceError, match="times the estimate of the service; a job has no time limit"):
        client.sample(**request)


def test_the_key_and_the_address_come_from_the_environment(
    proxy: BreakingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENFLOW_URL", proxy.url)
    monkeypatch.setenv("ENFLOW_API_KEY", "opensesame")
    with enflow.Client() as client:
        client.limits()
    with enflow.Client(api_key="other") as client:
        client.limits()
    keys = [b"authorization: bearer opensesame" in each.lower() for each in proxy.requests]
    assert keys == [True, False]
