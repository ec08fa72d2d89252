"""Jobs over HTTP: the same molecules as one request, in parts, in every format, and what ends a job."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from enflow.service.protocol.requests import ADAMS_EVALUATIONS, EngineSampleRequest
from enflow.service.schemas.examples import METHANE as METHANE_XYZ
from enflow.service.settings import JobSettings
from tests.service.api.job_requests import ended, posted, results, scaled, settings_for
from tests.service.conftest import DEADLINES_S, Api, eventually
from tests.service.fake_client import FakeClient
from tests.service.serving import serving

XYZ, SDF, NDJSON = "chemical/x-xyz", "chemical/x-mdl-sdfile", "application/x-ndjson"


def test_a_job_has_the_molecules_of_one_request(api: Api) -> None:
    api.client.molecule = scaled
    body = {"n_molecules": 20, "n_atoms": 5, "seed": 4, "first_index": 3}
    whole = api.http.post("/sample", json=body).json()
    job = posted(api.http, {"sample": body})
    assert (job["kind"], job["n_molecules"], job["seed"], job["state"]) == ("sample", 20, 4, "queued")
    done = ended(api.http, job)
    assert (done["state"], done["done"], done["failed"], done["tried"]) == ("done", 20, 0, 20)
    assert done["rate"] > 0
    assert (done["time_left_s"], done["detail"]) == (None, "")
    assert results(api.http, job)["molecules"] == whole["molecules"]


def test_a_job_is_computed_in_parts_with_the_indices_of_the_whole(api: Api) -> None:
    api.client.molecule = scaled
    job = posted(api.http, {"sample": {"n_molecules": 150, "only": "valid", "seed": 1}})
    assert ended(api.http, job)["state"] == "done"
    first = [each for each in api.client.submitted if isinstance(each, EngineSampleRequest) and len(each) > 1]
    assert [(each.first_index, len(each)) for each in first] == [(0, 64), (64, 64), (128, 22)]
    assert all(each.background and each.client == "jobs" for each in api.client.submitted)
    found = results(api.http, job)
    expected = {
        place: next(i for i in range(place, 10**6, 150) if i % 5 != 3) for place in range(150) if place % 5 != 3
    }
    assert [each["index"] for each in found["molecules"]] == list(expected.values())
    # 150 is a multiple of 5, so a place without bonds stays without: the limit of attempts is 3.
    assert [each["index"] for each in found["failed"]] == [2 * 150 + place for place in range(3, 150, 5)]
    assert (found["first"], found["next"]) == (0, 150)


def test_every_format_and_every_range(api: Api) -> None:
    api.client.molecule = scaled
    job = posted(api.http, {"sample": {"n_molecules": 100, "n_atoms": 5, "seed": 4}})
    ended(api.http, job)

    def read(accept: str, **query: int) -> httpx.Response:
        return api.http.get(f"/jobs/{job['id']}/results", params=query, headers={"Accept": accept}).raise_for_status()

    assert read(XYZ).text.count("Properties=") == 100
    assert read(SDF).text.count("$$$$") == 100
    lines = [json.loads(line) for line in read(NDJSON, first=60, count=10).text.splitlines()]
    assert [each["index"] for each in lines] == list(range(60, 70))
    whole = api.http.post("/sample", json={"n_molecules": 10, "n_atoms": 5, "seed": 4}, headers={"Accept": SDF}).text
    assert read(SDF, count=10).text == whole
    newer = read(f"{SDF}; version=V3000", first=62, count=5).text
    assert newer.count("V3000") >= 5
    assert [record.lstrip("\n").partition("\n")[0] for record in newer.split("$$$$")[:5]] == [
        f"tiny-4-{i}" for i in range(62, 67)
    ]
    assert "<html" in read("text/html", first=0, count=3).text
    assert read("application/zip", count=5).content[:2] == b"PK"
    assert results(api.http, job, first=98, count=50)["next"] == 100
    assert results(api.http, job, first=500)["molecules"] == []
    refused = api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": "text/html"})
    assert refused.status_code == 422
    assert "expected a count of at most 20" in refused.json()["detail"]
    assert api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": "image/png"}).status_code == 406


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("foo=1", "foo: found a field foo, which does not exist here"),
        ("first=0&foo=1", "foo: found a field foo, which does not exist here"),
        ("first=0&first=1", "found an option twice in the query, expected it once"),
        ("first=-1", "first"),
    ],
)
def test_results_refuse_a_query_as_scores_do(api: Api, query: str, message: str) -> None:
    job = posted(api.http, {"sample": {"n_molecules": 2, "n_atoms": 5}})
    answer = api.http.get(f"/jobs/{job['id']}/results?{query}")
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_scores_of_a_job_are_those_of_one_request(api: Api) -> None:
    texts = (METHANE_XYZ, "nonsense", METHANE_XYZ, "1\nxenon\nXe 0 0 0\n")
    structures = [{"format": "xyz", "data": text} for text in texts]
    body = {"structures": structures, "seed": 2}
    whole = api.http.post("/likelihood", json=body).json()["results"]
    job = posted(api.http, {"likelihood": body})
    assert ended(api.http, job)["failed"] == 2
    found = results(api.http, job)["results"]
    assert [each.get("name") for each in found] == ["methane", None, "methane", "xenon"]
    assert [each.get("nll") for each in found] == [each.get("nll") for each in whole]
    assert found[1]["error"]["detail"] == whole[1]["error"]["detail"]
    assert api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": XYZ}).status_code == 406


def test_a_response_a_stream_and_a_job_say_how_they_were_computed(api: Api) -> None:
    """The fields of the response, those of the event `done`, and those of the results of a job are the same."""

    def solver(document: dict[str, Any]) -> dict[str, Any]:
        return {name: document[name] for name in ("tolerance", "temperature", "refinements") if name in document}

    one, two = ([{"format": "xyz", "data": METHANE_XYZ * count}] for count in (1, 2))
    sampled = {"n_atoms": 5, "tolerance": "draft", "temperature": 0.8, "refinements": 2}
    for kind, body, expected in (
        ("sample", {"n_atoms": 5}, {"tolerance": 1e-3, "temperature": 1.0, "refinements": 0}),
        ("sample", sampled, {"tolerance": 1e-2, "temperature": 0.8, "refinements": 2}),
        ("likelihood", {"structures": one, "tolerance": "draft"}, {"tolerance": 1e-2}),
        ("variations", {"structures": one, "tolerance": 0.004}, {"tolerance": 0.004, "refinements": 0}),
        ("interpolate", {"structures": two, "tolerance": "standard"}, {"tolerance": 1e-5, "refinements": 0}),
    ):
        body = {**body, "seed": 3}
        assert solver(api.http.post(f"/{kind}", json=body).json()) == pytest.approx(expected)
        stream = api.http.post(f"/{kind}", json=body, headers={"Accept": NDJSON}).text.splitlines()
        assert solver(json.loads(stream[-1])) == pytest.approx(expected)
        job = posted(api.http, {kind: body})
        assert ended(api.http, job)["state"] == "done"
        of_job = {name: value for name, value in expected.items() if (kind, name) != ("interpolate", "tolerance")}
        assert solver(results(api.http, job)) == pytest.approx(of_job)


@pytest.mark.parametrize(
    ("kind", "options"), [("interpolate", {"steps": 70}), ("variations", {"n_molecules": 70, "scale": 0.1})]
)
def test_walks_of_a_job_are_those_of_one_request(api: Api, kind: str, options: dict[str, object]) -> None:
    texts = METHANE_XYZ * (2 if kind == "interpolate" else 1)
    body = {"structures": [{"format": "xyz", "data": texts}], "seed": 3, "tolerance": "standard"}
    shorter = {key: min(20, value) if isinstance(value, int) else value for key, value in options.items()}
    whole = api.http.post(f"/{kind}", json={**body, **shorter}).json()["molecules"]
    job = posted(api.http, {kind: {**body, **options}})
    assert ended(api.http, job)["done"] == 70
    found = results(api.http, job)["molecules"]
    assert [each["index"] for each in found] == list(range(70))
    if kind == "variations":
        assert [each["xyz"] for each in found[:20]] == [each["xyz"] for each in whole]
    else:
        assert [each["fraction"] for each in found] == pytest.approx([i / 69 for i in range(70)])


def test_a_running_job_gives_its_results_so_far_and_keeps_them_when_it_is_cancelled(api: Api) -> None:
    api.client.pause, api.client.steps = 0.02, 20
    job = posted(api.http, {"sample": {"n_molecules": 5000, "n_atoms": 5, "seed": 4}})
    eventually(lambda: api.http.get(f"/jobs/{job['id']}").json()["done"] >= 64)
    answer = api.http.get(f"/jobs/{job['id']}/results", params={"count": 10})
    assert [each["index"] for each in answer.json()["molecules"]] == list(range(10))
    assert answer.headers["Link"] == f'</jobs/{job["id"]}/results?first=10&count=10>; rel="next"'
    ahead = api.http.get(f"/jobs/{job['id']}/results", params={"first": 4990, "count": 10})
    assert (ahead.json()["molecules"], ahead.json()["first"], ahead.json()["next"]) == ([], 4990, 4990)
    assert ahead.headers["Link"] == f'</jobs/{job["id"]}/results?first=4990&count=10>; rel="next"'
    assert "Link" not in api.http.get(f"/jobs/{job['id']}/results", params={"first": 5000}).headers
    cancelled = api.http.delete(f"/jobs/{job['id']}").json()
    assert (cancelled["state"], cancelled["time_left_s"]) == ("cancelled", None)
    eventually(lambda: len(api.client.aborted) > 0)
    kept = results(api.http, job)
    assert len(kept["molecules"]) == cancelled["done"] == kept["next"]
    assert api.http.delete(f"/jobs/{job['id']}").json()["id"] == job["id"]
    assert api.http.get(f"/jobs/{job['id']}").status_code == 404
    assert api.http.get(f"/jobs/{job['id']}/results").status_code == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "found none, expected one of"),
        ({"sample": {}, "likelihood": {"structures": [{"format": "xyz", "data": "x"}]}}, "found sample and likelihood"),
        ({"sample": {"n_molecules": 1_000_001}}, "limit max_molecules of 1000000"),
        ({"sample": {"n_molecules": 0}}, "sample/n_molecules"),
        ({"sample": {"deadline_s": 5.0}}, "a job has no deadline"),
        ({"sample": {"model": "none"}}, "found no model of that name"),
        ({"sample": {"formula": "CH4"}}, "found a formula"),
        ({"sample": {"formula": "CH4"}}, '"at": "/sample/formula"'),
        ({"sample": {"sort": "qed"}}, "(GET /docs): found sort, expected none"),
        ({"variations": {"structures": [{"format": "xyz", "data": "x"}]}}, ""),
        ({"train": {}}, "train"),
    ],
)
def test_a_body_that_cannot_be_carried_out_is_refused_at_once(api: Api, body: dict[str, Any], reason: str) -> None:
    answer = api.http.post("/jobs", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert reason in answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs"), ("GET", "/jobs/1"), ("DELETE", "/jobs/1")])
def test_a_path_of_jobs_without_options_refuses_one(api: Api, method: str, path: str) -> None:
    answer = api.http.request(method, f"{path}?limit=5")
    assert (answer.status_code, answer.json()["errors"]) == (
        422, [{"at": "/limit", "message": "found a field limit, which does not exist here"}],
    )  # fmt: skip


def test_a_job_without_bonds_has_none_in_any_format(api: Api) -> None:
    body = {"n_molecules": 2, "seed": 1, "bonds": False}
    whole = api.http.post("/sample", json=body, headers={"Accept": SDF}).text
    job = posted(api.http, {"sample": body})
    ended(api.http, job)
    assert api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": SDF}).text == whole
    assert whole.count(">  <bond_status>\nomitted\n") == 2


KEYS = {"lab": "a-key-of-the-lab", "other": "another-key"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with API keys and small limits of jobs."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text("".join(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in KEYS.items()))
    client = FakeClient(steps=10**6, pause=0.01)
    limits = JobSettings(max_open=2, max_molecules=500, max_stored_bytes=2000)
    with serving(client, settings_for(folder, api_keys_file=keys, jobs=limits)) as (http, _):
        yield http


def test_a_client_sees_its_own_jobs_only(guarded: httpx.Client) -> None:
    lab, other = ({"X-API-Key": key} for key in KEYS.values())
    answer = guarded.post("/jobs", json={"sample": {"n_molecules": 9}}, headers=lab)
    place = answer.headers["Location"]
    for path in (place, f"{place}/results"):
        assert guarded.get(path, headers=lab).status_code == 200
        assert guarded.get(path, headers=other).status_code == 404
        assert guarded.get(path).status_code == 401
    assert guarded.delete(place, headers=other).status_code == 404
    assert guarded.delete(place).status_code == 401
    assert guarded.get("/jobs").status_code == 401
    assert [each["id"] for each in guarded.get("/jobs", headers=lab).json()["jobs"]] == [answer.json()["id"]]
    assert guarded.get("/jobs", headers=other).json() == {"jobs": []}


def test_the_limits_of_jobs(guarded: httpx.Client) -> None:
    other = {"X-API-Key": KEYS["other"]}
    assert guarded.post("/jobs", json={"sample": {"n_molecules": 501}}, headers=other).status_code == 422
    large = {"variations": {"structures": [{"format": "xyz", "data": METHANE_XYZ + 2000 * " "}]}}
    refused = guarded.post("/jobs", json=large, headers=other)
    assert refused.status_code == 422
    assert "bytes, expected at most 2000 (ENFLOW_JOBS__MAX_STORED_BYTES)" in refused.json()["detail"]
    for _ in range(2):
        assert guarded.post("/jobs", json={"sample": {}}, headers=other).status_code == 202
    refused = guarded.post("/jobs", json={"sample": {}}, headers=other)
    assert refused.status_code == 429
    assert "Retry-After" in refused.headers


def test_requests_count_as_stored_bytes(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, jobs=JobSettings(max_stored_bytes=2000))
    body = {"variations": {"structures": [{"format": "xyz", "data": METHANE_XYZ + 1000 * " "}]}}
    with serving(FakeClient(steps=10**6, pause=0.01), settings) as (http, _):
        assert [http.post("/jobs", json=body).status_code for _ in range(2)] == [202, 503]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_long_request_has_an_estimate_and_refers_to_jobs(api: Api, accept: str) -> None:
    headers = {"Accept": accept}
    body = {"n_molecules": 20, "n_atoms": 10, "tolerance": 1e-3}
    api.client.rate = 20 * 10**2 * ADAMS_EVALUATIONS / 90  # 20 molecules of 10 atoms
    answer = api.http.post("/sample", json=body, headers=headers)
    assert (answer.status_code, answer.headers["Enflow-Estimated-Seconds"]) == (200, "90")
    assert answer.headers["Link"] == '</jobs>; rel="alternate"'
    job = posted(api.http, {"sample": body})
    assert job["time_left_s"] == pytest.approx(90, rel=1e-3)
    api.http.delete(f"/jobs/{job['id']}")
    api.client.steps, api.client.pause = 100, 0.1
    api.client.submitted.clear()
    for deadline_s in DEADLINES_S:
        late = api.http.post("/sample", json={**body, "deadline_s": deadline_s})
        if api.client.submitted:
            break
    assert (late.status_code, late.headers["Enflow-Estimated-Seconds"]) == (408, "90")
    api.client.__init__()  # type: ignore[misc]
    api.client.rate = 1e9
    assert "Link" not in api.http.post("/sample", json=body, headers=headers).headers
