"""POST /sample with a formula: a real second model in a process, beside a fake first one."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from enflow.model import checkpoint
from enflow.model.chem.io.formats import read
from enflow.service.__main__ import main
from enflow.service.settings import Settings
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, tiny_formula_weights, weights_with_card


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny weights, and beside it a folder with those of the model for formulas."""
    place = tmp_path_factory.mktemp("weights") / "tiny"
    place.mkdir()
    tiny_formula_weights(place.with_name("tiny-formula"))
    return weights_with_card(place)


@pytest.fixture(scope="module")
def http(weights: Path) -> Iterator[httpx.Client]:
    settings = Settings(weights=weights, device="cpu", threads=1, chemistry=one_worker(), drain_s=1)
    with serving(FakeClient(), settings) as (http, _):
        yield http


def test_every_molecule_has_the_formula_and_the_seed_fixes_it(http: httpx.Client, weights: Path) -> None:
    body = {"formula": "CH4O", "n_molecules": 3, "seed": 4, "with_nll": True}
    found = http.post("/sample", json=body).raise_for_status().json()
    assert found["model"]["name"] == "tiny-formula"
    assert [each["formula"] for each in found["molecules"]] == ["CH4O"] * 3
    flow = checkpoint.load(weights.with_name("tiny-formula"))
    expected = flow.sample(["CH4O"] * 3, seed=4)
    for molecule_out, molecule in zip(found["molecules"], expected, strict=True):
        (read_back,) = read(molecule_out["xyz"], "xyz")
        np.testing.assert_allclose(read_back.positions, molecule.positions, atol=1e-3)
    (score,) = flow.log_prob(expected[:1], divergence="exact")
    assert found["molecules"][0]["nll"] == pytest.approx(score.nll, abs=0.2)


def test_without_a_formula_the_first_model_answers(http: httpx.Client) -> None:
    assert http.post("/sample", json={"seed": 4}).json()["model"]["name"] == "tiny"
    assert [card["name"] for card in http.get("/models").json()["models"]] == ["tiny", "tiny-formula"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"formula": "CH3Cl"}, "found element Cl"),
        ({"formula": "C20H42"}, "found 62 atoms"),
        ({"formula": "ch4"}, "match"),
        ({"formula": "CH4", "n_atoms": 5}, "expected one of them"),
    ],
)
def test_formulas_that_cannot_be(http: httpx.Client, body: dict[str, object], said: str) -> None:
    answer = http.post("/sample", json=body)
    assert_problem(answer, 422)
    assert said in answer.text


def test_a_service_without_such_a_model_says_so(api: Api) -> None:
    answer = api.http.post("/sample", json={"formula": "CH4"})
    assert_problem(answer, 422)
    assert "no model that takes one is loaded" in answer.text


def test_the_shell_gives_the_same_molecule(http: httpx.Client, weights: Path, tmp_path: Path, monkeypatch) -> None:
    place, out = weights.with_name("tiny-formula"), tmp_path / "one.xyz"
    command = f"enflow sample --formula CH4O --seed 4 --weights {place} --out {out} --device cpu"
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    (from_shell,) = read(out.read_text(), "xyz")
    molecule_out = http.post("/sample", json={"formula": "CH4O", "seed": 4}).json()["molecules"][0]
    (from_service,) = read(molecule_out["xyz"], "xyz")
    np.testing.assert_allclose(from_shell.positions, from_service.positions, atol=1e-3)
