"""enflow.Client's jobs against a running service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import enflow
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import ConfigError, DataError
from enflow.service.http_client import job as job_module
from enflow.service.http_client.client import structures
from enflow.service.http_client.results import MoleculeScore
from tests.service.conftest import Api
from tests.service.http_client.breaking_proxy import breaking
from tests.service.http_client.test_client import CH4, scaled


@pytest.fixture
def client(api: Api) -> Iterator[enflow.Client]:
    api.client.molecule = scaled
    with enflow.Client(str(api.http.base_url)) as client:
        yield client


def test_a_job_from_its_start_to_its_end(
    api: Api, client: enflow.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "PAGE", 30)
    job = client.submit(sample={"n_molecules": 70, "n_atoms": 5, "seed": 1})
    assert repr(job).startswith(f"Job('{job.id}', ")
    seen: list[tuple[str, int, int]] = []
    assert job.wait(lambda *progress: seen.append(progress[:3]), poll_s=0.01) is job
    assert (job.state, job.done, job.n_molecules, job.ended) == ("done", 70, 70, True)
    assert all(each == ("computing", each[1], 70) for each in seen)
    assert [each.id for each in client.jobs()] == [job.id]
    found = list(client.job(job.id).results())
    assert found == [Molecule(*scaled(index)) for index in range(70)]
    assert list(job.results(first=68)) == found[68:]
    assert list(job.results(first=20, count=40)) == found[20:60]
    for name, mark in [("m.sdf", "$$$$"), ("m.xyz", "Properties="), ("m.ndjson", "\n")]:
        assert job.save(tmp_path / name) == tmp_path / name
        assert (tmp_path / name).read_text().count(mark) == 70
    whole = api.http.get(f"/jobs/{job.id}/results", params={"first": 60, "count": 5}).content
    assert job.save(str(tmp_path / "part.JSON"), first=60, count=5).read_bytes() == whole
    assert job.delete().state == "done"
    with pytest.raises(enflow.ServiceError, match="found no job with this id"):
        job.refresh()


def test_results_of_scores_and_failures_have_their_places(api: Api, client: enflow.Client) -> None:
    api.client.unscored = {1}
    job = client.submit(likelihood={"structures": structures([CH4, CH4]), "seed": 0}).wait(poll_s=0.01)
    good, bad = job.results()
    assert isinstance(good, MoleculeScore)
    assert isinstance(bad, MoleculeScore)
    assert (good.nll, good.error) == (-0.5, "")
    assert "the likelihood is nan" in bad.error


def test_a_cancelled_job_is_an_error_for_who_waits(api: Api, client: enflow.Client) -> None:
    api.client.steps, api.client.pause = 10**6, 0.01
    job = client.submit(sample={"n_molecules": 7, "n_atoms": 5})
    assert client.job(job.id).delete().state == "cancelled"
    with pytest.raises(enflow.ServiceError, match=f"the job {job.id} is cancelled: by a request"):
        job.wait(poll_s=0.01)


def test_a_file_is_written_whole_or_not_at_all(api: Api, client: enflow.Client, tmp_path: Path) -> None:
    job = client.submit(sample={"n_molecules": 70, "n_atoms": 5}).wait(poll_s=0.01)
    with breaking(api.http.base_url) as proxy, enflow.Client(proxy.url) as far:
        proxy.cuts = [20_000]
        written = far.job(job.id).save(tmp_path / "far.sdf")
        assert written.read_bytes() == job.save(tmp_path / "near.sdf").read_bytes()
        assert len(proxy.requests) == 2
    with pytest.raises(ConfigError, match=r"found the ending '\.png'"):
        job.save(tmp_path / "m.png")
    with pytest.raises(DataError, match="cannot write"):
        job.save(tmp_path / "none" / "m.sdf")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["far.sdf", "near.sdf"]


def test_the_lines_of_a_file_are_the_documents(client: enflow.Client, tmp_path: Path) -> None:
    job = client.submit(sample={"n_molecules": 2, "n_atoms": 5, "seed": 1}).wait(poll_s=0.01)
    lines = job.save(tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1]
