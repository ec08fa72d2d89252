"""Jobs whose engine fails, refuses or is down, or whose database or service does."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from enflow.service.handlers.job_runner import MAX_FAILURES
from enflow.service.protocol.events import Event, Failed, Reason
from enflow.service.protocol.requests import EngineRequest, Structure
from enflow.service.protocol.status import Health, Unavailable
from enflow.service.schemas.examples import METHANE as METHANE_XYZ
from tests.service.api.job_requests import ended, posted, results, scaled, settings_for
from tests.service.conftest import Api, eventually
from tests.service.fake_client import METHANE, FakeClient
from tests.service.serving import serving


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
        return [Failed(request.id, i, Reason.ENGINE, "a defect") for i in request.indices]

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
        facts = [(each["index"], each["name"], each["error"]["status"]) for each in found["results"]]
        assert facts == [(i, "methane", 503) for i in range(3)]
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
        return [Failed(request.id, i, Reason.ENGINE) for i in request.indices]

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
