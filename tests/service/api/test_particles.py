"""Small real models of particles, each in a process that its first request starts, beside a fake first model."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from enflow.model import checkpoint
from enflow.model.chem.io.formats import read
from enflow.model.training.mcmc.potentials import DW4, LJ13, Potential
from enflow.service.schemas.responses import (
    LikelihoodResponse,
    ParticleScoreOut,
    ParticlesOut,
    SampleResponse,
    ScoreErrorOut,
)
from enflow.service.settings import Settings
from tests.service.api.test_errors import assert_problem
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, tiny_particle_weights, weights_with_card

SYSTEMS = {"dw4": DW4, "lj13": LJ13}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a card, and beside it the weights of both particle systems."""
    place = tmp_path_factory.mktemp("weights") / "tiny"
    place.mkdir()
    for name in SYSTEMS:
        tiny_particle_weights(place.with_name(name), name)
    return weights_with_card(place)


@pytest.fixture(scope="module")
def http(weights: Path) -> Iterator[httpx.Client]:
    settings = Settings(weights=weights, device="cpu", threads=1, chemistry=one_worker(), drain_s=1)
    with serving(FakeClient(), settings) as (http, _):
        assert set(http.get("/health/ready").json()["models"].values()) == {
            "ok",
            "the engine starts with the first request",
        }
        yield http


def sample(http: httpx.Client, model: str, accept: str = "application/json", **body: object) -> httpx.Response:
    asked = {"model": model, "seed": 3, **body}
    return http.post("/sample", json=asked, headers={"Accept": accept})


def molecules(answer: httpx.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.raise_for_status().json()["molecules"]
    return found


@pytest.mark.parametrize("potential", [DW4, LJ13], ids=["dw4", "lj13"])
def test_they_are_those_of_the_flow_with_their_energy_and_density(
    http: httpx.Client, weights: Path, potential: Potential
) -> None:
    answer = sample(http, potential.name, n_molecules=3, with_nll=True, tolerance=1e-5)
    found = SampleResponse.model_validate_json(answer.raise_for_status().content)
    assert (found.model.name, found.attempts.found) == (potential.name, 3)
    flow = checkpoint.load_particles(weights.with_name(potential.name))
    x, log_prob = flow.sample(3, seed=3)
    for scored, positions, log_p in zip(found.molecules, x, log_prob.tolist(), strict=True):
        assert isinstance(scored, ParticlesOut)
        np.testing.assert_allclose(scored.positions, positions.numpy(), atol=1e-3)
        energy = potential.energy(torch.tensor(scored.positions, dtype=torch.float64)[None]).item()
        assert scored.energy == pytest.approx(energy, rel=1e-9)
        assert scored.nll is not None
        assert scored.parts is not None
        assert scored.nll == pytest.approx(-log_p, abs=0.02)
        assert scored.log_prob == -scored.nll
        assert scored.log_weight == pytest.approx(scored.nll - energy)
        assert scored.parts.base + scored.parts.divergence == pytest.approx(scored.nll)
        (read_back,) = read(scored.xyz, "xyz")
        padded = np.pad(scored.positions, ((0, 0), (0, 3 - potential.n_dims)))
        np.testing.assert_array_equal(read_back.positions, padded)
        assert (read_back.symbols, read_back.properties["model"]) == (["Ar"] * potential.n_particles, potential.name)


def test_seed_and_index_fix_a_sample(http: httpx.Client) -> None:
    together = molecules(sample(http, "dw4", n_molecules=6))
    (alone,) = molecules(sample(http, "dw4", first_index=4))
    assert alone["index"] == together[4]["index"] == 4
    np.testing.assert_allclose(alone["positions"], together[4]["positions"], atol=1e-3)


def test_frames_stream_in_the_dimensions_of_the_system(http: httpx.Client) -> None:
    answer = sample(http, "dw4", "application/x-ndjson", frames=4)
    events = [json.loads(line) for line in answer.raise_for_status().text.splitlines()]
    assert [event["event"] for event in events][0 :: len(events) - 1] == ["start", "done"]
    frames = [event["frame"] for event in events if event["event"] == "frame"]
    (whole,) = (event["molecule"] for event in events if event["event"] == "molecule")
    assert frames
    assert all(np.shape(frame["positions"]) == (4, 2) for frame in [*frames, *whole["frames"]])
    np.testing.assert_allclose(whole["frames"][-1]["positions"], whole["positions"], atol=1e-3)


def test_every_format_but_sdf(http: httpx.Client) -> None:
    xyz = sample(http, "lj13", "chemical/x-xyz", n_molecules=2)
    assert [each.n_atoms for each in read(xyz.raise_for_status().text, "xyz")] == [13, 13]
    assert "energy" in sample(http, "lj13", "text/html").raise_for_status().text
    assert "event: molecule" in sample(http, "lj13", "text/event-stream").raise_for_status().text
    packed = sample(http, "lj13", "application/zip").raise_for_status().content
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == ["molecules.xyz", "answer.json"]
    assert_problem(sample(http, "lj13", "chemical/x-mdl-sdfile"), 406)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"only": "valid"}, "particles have no bonds and no valence"),
        ({"unique": True}, "particles have no SMILES"),
        ({"where": {"rings": [1, None]}}, "particles have no chemical properties"),
        ({"sort": "-qed"}, "particles have no chemical properties; nll is allowed"),
        ({"temperature": 0.8}, "particles have the density of their model"),
        ({"refinements": 1}, "particles have the density of their model"),
        ({"formula": "CH4"}, "particles have no elements"),
        ({"n_atoms": 5}, "dw4 always has 4 particles"),
        ({"model": "<b>"}, "expected one of tiny, dw4, lj13"),
        ({"model": "tiny", "formula": "CH4"}, "tiny draws the elements itself"),
    ],
)
def test_what_a_model_cannot_make_is_refused(http: httpx.Client, body: dict[str, object], said: str) -> None:
    answer = http.post("/sample", json={"model": "dw4", **body})
    assert_problem(answer, 422)
    assert said in answer.text
    assert "<b>" not in answer.text


def test_an_upload_scores_as_its_sample_did(http: httpx.Client) -> None:
    (scored,) = molecules(sample(http, "dw4", with_nll=True))
    wrong = "2\npair\nAr 0 0 0\nAr 1 0 0\n"
    bent = scored["xyz"].replace("Ar ", "C  ")  # whatever the elements
    headers = {"Content-Type": "chemical/x-xyz"}
    body = (bent + wrong).encode()
    answer = http.post("/likelihood?model=dw4&divergence=exact", content=body, headers=headers)
    good, bad = LikelihoodResponse.model_validate_json(answer.raise_for_status().content).results
    assert isinstance(good, ParticleScoreOut)
    assert good.nll == pytest.approx(scored["nll"], abs=1e-3)
    assert good.energy == pytest.approx(scored["energy"])
    assert sum(good.atom_base) == pytest.approx(good.parts.base, abs=0.01)
    assert isinstance(bad, ScoreErrorOut)
    assert ("found 2 particles, expected 4" in bad.error.detail, bad.name) == (True, "pair")


def test_uploads_that_are_no_particles(http: httpx.Client) -> None:
    lifted = "4\n\nAr 0 0 0\nAr 1 0 0\nAr 0 1 0\nAr 0 0 1\n"
    body = {"model": "dw4", "structures": [{"format": "xyz", "data": lifted}, {"format": "sdf", "data": "?"}]}
    first, second = http.post("/likelihood", json=body).raise_for_status().json()["results"]
    assert "found 1 as z of particle 4, expected 0" in first["error"]["detail"]
    assert "found sdf, expected XYZ" in second["error"]["detail"]
    headers = {"Content-Type": "chemical/x-mdl-sdfile"}
    assert_problem(http.post("/likelihood?model=dw4", content=b"?", headers=headers), 422)


@pytest.mark.parametrize("path", ["/variations", "/interpolate"])
def test_walks_are_between_molecules(http: httpx.Client, path: str) -> None:
    four = "4\n\nAr 0 0 0\nAr 1 0 0\nAr 0 1 0\nAr 1 1 0\n"
    answer = http.post(path, json={"model": "dw4", "structures": [{"format": "xyz", "data": four}]})
    assert_problem(answer, 422)
    assert "found the model dw4" in answer.text


def test_the_models_are_listed_and_described(http: httpx.Client) -> None:
    first, dw4, lj13 = http.get("/models").json()["models"]
    assert [each["kind"] for each in (first, dw4, lj13)] == ["molecules", "particles", "particles"]
    assert (dw4["elements"], dw4["n_particles"], dw4["n_dims"]) == (["particle"], 4, 2)
    assert (lj13["n_particles"], lj13["n_dims"]) == (13, 3)
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert {"model": "lj13", "seed": 5} in schemas["SampleRequest"]["examples"]
    assert {"type": "string", "enum": ["tiny", "dw4", "lj13"]} in schemas["LikelihoodRequest"]["properties"]["model"][
        "anyOf"
    ]
    text = http.get("/metrics").text
    assert 'enflow_engine_requests{model="dw4"}' in text
    assert 'enflow_model_info{device="cpu",name="dw4"' in text
