"""Jobs over HTTP: the same molecules as one request, in parts, in every format, and what ends a job."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from enflow.service.handlers.job_runner import MAX_FAILURES
from enflow.service.protocol.events import Event, Failed, Reason
from enflow.service.protocol.requests import EngineRequest, EngineSampleRequest, Structure
from enflow.service.protocol.status import Health, Unavailable
from enflow.service.schemas.examples import METHANE as METHANE_XYZ
from enflow.service.settings import JobSettings, Settings
from tests.service.conftest import Api, eventually
from tests.service.fake_client import METHANE, TORN, FakeClient
from tests.service.serving import one_worker, serving, weights_with_card

XYZ, SDF, NDJSON = "chemical/x-xyz", "chemical/x-mdl-sdfile", "application/x-ndjson"


def ended(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job once it has ended."""
    eventually(lambda: http.get(f"/jobs/{job['id']}").json()["ended"] is not None)
    found: dict[str, Any] = http.get(f"/jobs/{job['id']}").json()
    return found


def posted(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    return job


def results(http: httpx.Client, job: dict[str, Any], **query: int) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/jobs/{job['id']}/results", params=query).raise_for_status().json()
    return found


def scaled(index: int) -> Structure:
    """Return methane whose size tells its index; some have no bonds."""
    known = TORN if index % 5 == 3 else METHANE
    return Structure(known.atomic_numbers, known.positions * (1 + index / 10_000))


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
    assert read(f"{SDF}; version=V3000", first=62, count=5).text.count("V3000") >= 5
    assert "<html" in read("text/html", first=0, count=3).text
    assert read("application/zip", count=5).content[:2] == b"PK"
    assert results(api.http, job, first=98, count=50)["next"] == 100
    assert results(api.http, job, first=500)["molecules"] == []
    refused = api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": "text/html"})
    assert refused.status_code == 422
    assert "expected a count of at most 20" in refused.json()["detail"]
    assert api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": "image/png"}).status_code == 406


def test_scores_of_a_job_are_those_of_one_request(api: Api) -> None:
    structures = [{"format": "xyz", "data": text} for text in (METHANE_XYZ, "nonsense", METHANE_XYZ)]
    body = {"structures": structures, "seed": 2}
    whole = api.http.post("/likelihood", json=body).json()["results"]
    job = posted(api.http, {"likelihood": body})
    assert ended(api.http, job)["failed"] == 1
    found = results(api.http, job)["results"]
    assert [each.get("nll") for each in found] == [each.get("nll") for each in whole]
    assert found[1]["error"]["detail"] == whole[1]["error"]["detail"]
    assert api.http.get(f"/jobs/{job['id']}/results", headers={"Accept": XYZ}).status_code == 406


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
        ({"variations": {"structures": [{"format": "xyz", "data": "x"}]}}, ""),
        ({"train": {}}, "train"),
    ],
)
def test_a_body_that_cannot_be_carried_out_is_refused_at_once(api: Api, body: dict[str, Any], reason: str) -> None:
    answer = api.http.post("/jobs", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert reason in answer.text


def test_an_engine_that_refuses_delays_a_job_and_does_not_end_it(api: Api) -> None:
    api.client.refuse = Unavailable("the engine crashed too often")
    job = posted(api.http, {"sample": {"n_molecules": 3, "n_atoms": 5}})
    eventually(lambda: api.http.get(f"/jobs/{job['id']}").json()["state"] == "running")
    api.client.refuse = None
    assert ended(api.http, job)["state"] == "done"


def test_a_molecule_that_fails_is_an_answer_and_a_defect_ends_its_job_only(api: Api) -> None:
    def molecule(index: int) -> Structure:
        if index == 7:
            raise IndexError("a defect")
        return METHANE

    api.client.molecule = molecule
    bad = posted(api.http, {"sample": {"n_molecules": 10, "n_atoms": 5}})
    good = posted(api.http, {"sample": {"n_molecules": 5, "n_atoms": 5}})
    failed = ended(api.http, bad)
    assert (failed["state"], failed["done"]) == ("failed", 0)
    assert "the service failed on this request" in failed["detail"]
    assert ended(api.http, good)["state"] == "done"


def test_a_molecule_on_which_the_engine_fails_every_time_holds_up_no_job(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enflow.service.handlers.job_runner.RETRY_S", 0.0)
    found = api.client._results

    def results_of(request: EngineRequest) -> list[Event]:
        return [Failed(each.id, 7, Reason.ENGINE) if each.index == 7 else each for each in found(request)]

    monkeypatch.setattr(api.client, "_results", results_of)
    bad = posted(api.http, {"sample": {"n_molecules": 10, "n_atoms": 5}})
    done = ended(api.http, bad)
    assert (done["state"], done["done"], done["failed"]) == ("done", 10, 1)
    assert [(each["index"], each["reason"]) for each in results(api.http, bad)["failed"]] == [(7, "engine")]
    assert len(api.client.submitted) == MAX_FAILURES


@pytest.mark.parametrize("kind", ["sample", "likelihood", "interpolate", "variations"])
def test_a_part_on_which_the_engine_fails_every_time_ends_with_the_reason_for_each_molecule(
    api: Api, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("enflow.service.handlers.job_runner.RETRY_S", 0.0)

    def results_of(request: EngineRequest) -> list[Event]:
        first = request.first_index
        return [Failed(request.id, i, Reason.ENGINE, "a defect") for i in range(first, first + len(request))]

    monkeypatch.setattr(api.client, "_results", results_of)
    structures = {"structures": [{"format": "xyz", "data": METHANE_XYZ * (2 if kind == "interpolate" else 1)}]}
    scored = {"structures": [{"format": "xyz", "data": METHANE_XYZ * 3}]}
    bodies: dict[str, dict[str, Any]] = {
        "sample": {"n_molecules": 3, "n_atoms": 5, "first_index": 7},
        "likelihood": scored,
        "interpolate": {**structures, "steps": 3},
        "variations": {**structures, "n_molecules": 3},
    }
    done = ended(api.http, posted(api.http, {kind: bodies[kind]}))
    assert (done["state"], done["done"], done["failed"], done["tried"]) == ("done", 3, 3, 3)
    assert len(api.client.submitted) == MAX_FAILURES
    found = results(api.http, done)
    if kind == "likelihood":
        assert [(each["index"], each["error"]["status"]) for each in found["results"]] == [(i, 503) for i in range(3)]
    else:
        first = 7 if kind == "sample" else 0
        assert [(each["index"], each["reason"]) for each in found["failed"]] == [
            (first + i, "engine") for i in range(3)
        ]
        assert all(each["detail"] for each in found["failed"])


def test_an_engine_that_is_down_does_not_use_up_the_trials_of_a_part(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enflow.service.handlers.job_runner.RETRY_S", 0.01)
    found, health, asked = api.client._results, api.client.health, list[Health]()

    def results_of(request: EngineRequest) -> list[Event]:
        if api.client.ready:
            return found(request)
        return [Failed(request.id, i, Reason.ENGINE) for i in range(request.first_index, len(request))]

    monkeypatch.setattr(api.client, "_results", results_of)
    monkeypatch.setattr(api.client, "health", lambda: asked.append(health()) or health())
    api.client.ready = False
    job = posted(api.http, {"sample": {"n_molecules": 3, "n_atoms": 5}})
    eventually(lambda: len(asked) > 50)
    assert len(api.client.submitted) == 1
    api.client.ready = True
    assert ended(api.http, job)["failed"] == 0


def test_the_service_starts_without_a_database_and_says_so(tmp_path: Path) -> None:
    settings = settings_for(tmp_path).model_copy(update={"jobs_url": "sqlite:////dev/null/jobs.sqlite"})
    with serving(FakeClient(), settings) as (http, _):
        answer = http.post("/jobs", json={"sample": {}})
        assert answer.status_code == http.get("/jobs").status_code == 503
        assert "database could not be opened" in answer.json()["detail"]
        assert http.post("/sample", json={"n_atoms": 5}).status_code == 200


def settings_for(folder: Path, **given: Any) -> Settings:
    (folder / "weights").mkdir(exist_ok=True)
    weights = weights_with_card(folder / "weights")
    return Settings(
        weights=weights, chemistry=one_worker(), jobs_url=f"sqlite:///{folder}/jobs.sqlite", port=0, **given
    )


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
    assert guarded.post("/jobs", json=large, headers=other).status_code == 503
    for _ in range(2):
        assert guarded.post("/jobs", json={"sample": {}}, headers=other).status_code == 202
    refused = guarded.post("/jobs", json={"sample": {}}, headers=other)
    assert refused.status_code == 429
    assert "Retry-After" in refused.headers


def test_a_job_goes_on_after_a_restart_and_fails_where_the_weights_are_others(tmp_path: Path) -> None:
    slow = FakeClient(molecule=scaled, steps=20, pause=0.01)
    settings = settings_for(tmp_path)
    with serving(slow, settings) as (http, _):
        first = posted(http, {"sample": {"n_molecules": 200, "n_atoms": 5, "seed": 4}})
        second = posted(http, {"sample": {"n_molecules": 200, "n_atoms": 5, "seed": 4}})
        eventually(lambda: http.get(f"/jobs/{first['id']}").json()["done"] >= 64)
    with serving(FakeClient(molecule=scaled), settings) as (http, _):
        assert ended(http, first)["done"] == 200
        assert ended(http, second)["done"] == 200
        found = [results(http, job)["molecules"] for job in (first, second)]
        assert found[0] == found[1]
        assert [each["index"] for each in found[0]] == list(range(200))
        third = posted(http, {"sample": {"n_molecules": 10**6, "n_atoms": 5}})
        eventually(lambda: http.get(f"/jobs/{third['id']}").json()["done"] >= 64)
    card = json.loads((settings.weights / "card.json").read_text())
    other = hashlib.sha256(b"other").hexdigest()
    (settings.weights / "card.json").write_text(json.dumps({**card, "weights_sha256": other}))
    (settings.weights / "weights.safetensors").write_bytes(b"other")
    with serving(FakeClient(), settings) as (http, _):
        failed = ended(http, third)
        assert failed["state"] == "failed"
        assert f"found the weights tiny {other[:12]}" in failed["detail"]
        assert len(results(http, third, count=64)["molecules"]) == 64


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_long_request_has_an_estimate_and_refers_to_jobs(api: Api, accept: str) -> None:
    headers = {"Accept": accept}
    body = {"n_molecules": 20, "n_atoms": 10, "tolerance": 1e-3}
    api.client.rate = 20 * 10**2 * 44 / 90  # 44 evaluations for each of 20 molecules of 10 atoms
    answer = api.http.post("/sample", json=body, headers=headers)
    assert (answer.status_code, answer.headers["Enflow-Estimated-Seconds"]) == (200, "90")
    assert answer.headers["Link"] == '</jobs>; rel="alternate"'
    job = posted(api.http, {"sample": body})
    assert job["time_left_s"] == pytest.approx(90, rel=1e-3)
    api.http.delete(f"/jobs/{job['id']}")
    api.client.steps, api.client.pause = 100, 0.1
    late = api.http.post("/sample", json={**body, "deadline_s": 0.5})
    assert (late.status_code, late.headers["Enflow-Estimated-Seconds"]) == (408, "90")
    api.client.__init__()  # type: ignore[misc]
    api.client.rate = 1e9
    assert "Link" not in api.http.post("/sample", json=body, headers=headers).headers
