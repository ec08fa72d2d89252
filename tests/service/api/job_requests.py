"""Jobs over HTTP: start one, wait for its end, read its results."""

from pathlib import Path
from typing import Any

import httpx

from enflow.service.protocol.requests import Structure
from enflow.service.settings import Settings
from tests.service.conftest import eventually
from tests.service.fake_client import METHANE, TORN
from tests.service.serving import one_worker, weights_with_card


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


def settings_for(folder: Path, **given: Any) -> Settings:
    (folder / "weights").mkdir(exist_ok=True)
    weights = weights_with_card(folder / "weights")
    return Settings(
        weights=weights, chemistry=one_worker(), jobs_url=f"sqlite:///{folder}/jobs.sqlite", port=0, **given
    )
