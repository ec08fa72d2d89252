"""POST /sample with a fragment: a real second model in a process, beside a fake first one."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

import enflow
from enflow.model import checkpoint
from enflow.model.chem.io.formats import read
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.completion import Completion
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.service.__main__ import main
from enflow.service.schemas.examples import METHANE
from enflow.service.settings import Settings
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api, eventually
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, tiny_fragment_weights, weights_with_card

ETHANE_SDF = """ethane, far from the origin
  Enflow          3D

  8  7  0  0  0  0  0  0  0  0999 V2000
   20.7560   -7.0000    3.2500 C   0  0
   22.2840   -7.0000    3.2500 C   0  0
   20.3690   -5.9820    3.2500 H   0  0
   20.3690   -7.5090    2.3690 H   0  0
   20.3690   -7.5090    4.1310 H   0  0
   22.6710   -8.0180    3.2500 H   0  0
   22.6710   -6.4910    4.1310 H   0  0
   22.6710   -6.4910    2.3690 H   0  0
  1  2  1  0
  1  3  1  0
  1  4  1  0
  1  5  1  0
  2  6  1  0
  2  7  1  0
  2  8  1  0
M  END
$$$$
"""
METHYL_SDF = """a methyl group, whose carbon has an open bond
  Enflow          3D

  4  3  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.0280    0.0000    0.3633 H   0  0
   -0.5140    0.8900    0.3633 H   0  0
   -0.5140   -0.8900    0.3633 H   0  0
  1  2  1  0
  1  3  1  0
  1  4  1  0
M  END
"""
TWO_PIECES = "4\ntwo carbonyl groups\nC 0 0 0\nO 0 0 1.2\nC 4 0 0\nO 4 0 -1.2\n"
RADII = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny weights, and beside it a folder with those of the model for fragments."""
    place = tmp_path_factory.mktemp("weights") / "tiny"
    place.mkdir()
    tiny_fragment_weights(place.with_name("tiny-fragment"))
    return weights_with_card(place)


@pytest.fixture(scope="module")
def http(weights: Path) -> Iterator[httpx.Client]:
    settings = Settings(weights=weights, device="cpu", threads=1, chemistry=one_worker(), drain_s=1)
    with serving(FakeClient(), settings) as (http, _):
        yield http


@pytest.fixture(scope="module")
def flow(weights: Path) -> FragmentFlow:
    found = checkpoint.load(weights.with_name("tiny-fragment"))
    assert isinstance(found, FragmentFlow)
    return found


def structure(text: str, form: str = "xyz") -> Molecule:
    (found,) = read(text, form)
    assert isinstance(found, Molecule)
    return found


def body(data: str = METHANE, form: str = "xyz", **fields: object) -> dict[str, Any]:
    return {"fragment": {"format": form, "data": data}, "n_atoms": 8, "seed": 4, **fields}


def sampled(http: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = http.post("/sample", json=request).raise_for_status().json()
    assert not found["failed"]
    return found


def whole(molecule: Molecule) -> bool:
    """Return True if covalent radii join all atoms, by SciPy."""
    radii = np.array([RADII[number] for number in molecule.atomic_numbers.tolist()])
    near = cdist(molecule.positions, molecule.positions) < 1.15 * (radii[:, None] + radii)
    return bool(connected_components(near)[0] == 1)


def test_the_fragment_stays_and_seed_and_index_fix_the_rest(http: httpx.Client, flow: FragmentFlow) -> None:
    ethane = structure(ETHANE_SDF, "sdf")
    found = sampled(http, body(ETHANE_SDF, "sdf", attach=[4], n_atoms=[9, 12, 9]))
    assert found["model"]["name"] == "tiny-fragment"
    stay = [i for i in range(8) if i != 3]
    expected = flow.sample(fragment=ethane, attach=[4], n_atoms=[9, 12, 9], seed=4)
    for document, molecule in zip(found["molecules"], expected, strict=True):
        assert document["fragment_atoms"] == 7
        grown = structure(document["xyz"])
        assert grown.atomic_numbers.tolist()[:7] == ethane.atomic_numbers[stay].tolist()
        np.testing.assert_allclose(grown.positions[:7], ethane.positions[stay], atol=1e-6, rtol=0)
        np.testing.assert_allclose(grown.positions, molecule.positions, atol=1e-3)
        assert document["connected"] == (whole(grown) if not document["valid"] else document["bonds"]["fragments"] == 1)
    alone = sampled(http, body(ETHANE_SDF, "sdf", attach=[4], n_atoms=9, first_index=2))["molecules"][0]
    assert alone["index"] == 2
    np.testing.assert_allclose(structure(alone["xyz"]).positions, expected[2].positions, atol=1e-3)


@pytest.mark.parametrize(
    ("request_body", "stay"),
    [
        (body(), [0, 1, 2, 3, 4]),  # as it is
        (body(attach=[2]), [0, 2, 3, 4]),  # one hydrogen
        (body(attach=[1]), [0]),  # all hydrogens of a heavy atom
        (body(METHYL_SDF, "sdf"), [0, 1, 2, 3]),  # with an open bond
        (body(TWO_PIECES), [0, 1, 2, 3]),  # two pieces
    ],
)
def test_the_atoms_that_stay(http: httpx.Client, request_body: dict[str, Any], stay: list[int]) -> None:
    given = structure(request_body["fragment"]["data"], "xyz") if request_body["fragment"]["format"] == "xyz" else None
    (document,) = sampled(http, request_body)["molecules"]
    assert (document["n_atoms"], document["fragment_atoms"]) == (8, len(stay))
    if given:
        grown = structure(document["xyz"])
        np.testing.assert_allclose(grown.positions[: len(stay)], given.positions[stay], atol=1e-6, rtol=0)


def test_the_nll_is_that_of_the_rest(http: httpx.Client, flow: FragmentFlow) -> None:
    (document,) = sampled(http, body(with_nll=True))["molecules"]
    assert document["nll_of"] == "rest given fragment"
    assert document["nll_per_atom"] == pytest.approx(document["nll"] / 3)
    assert sum(document["parts"].values()) == pytest.approx(document["nll"])
    assert document["parts"]["n_atoms"] == 0
    assert document["atom_base"][:5] == [0] * 5
    assert sum(document["atom_base"]) == pytest.approx(document["parts"]["base"], rel=0.5)  # of one draw
    completion = Completion(structure(document["xyz"]), (0, 1, 2, 3, 4))
    (expected,) = flow.log_prob([completion], seed=4, divergence="exact", draws=8)
    error = np.hypot(expected.std_error or 0, document["std_error"])
    assert document["nll"] == pytest.approx(expected.nll, abs=4 * error + 0.2)


def test_frames_and_drawn_sizes_and_events(http: httpx.Client) -> None:
    request = {**body(ETHANE_SDF, "sdf", frames=3), "n_atoms": None, "n_molecules": 2}
    with http.stream("POST", "/sample", json=request, headers={"Accept": "application/x-ndjson"}) as answer:
        events = [json.loads(line) for line in answer.iter_lines()]
    molecules = [event["molecule"] for event in events if event["event"] == "molecule"]
    assert all(each["n_atoms"] > 8 for each in molecules)
    expected = structure(ETHANE_SDF, "sdf").positions
    for frame in [frame for each in molecules for frame in each["frames"]]:
        np.testing.assert_allclose(frame["positions"][:8], expected, atol=1e-3)


def test_the_kind_of_a_model_is_listed(http: httpx.Client) -> None:
    assert [card["kind"] for card in http.get("/models").json()["models"]] == ["molecules", "fragment"]
    assert http.get("/limits").json()["kind_by_model"] == {"tiny": "molecules", "tiny-fragment": "fragment"}
    assert http.post("/sample", json={"seed": 4}).json()["model"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("request_body", "at", "said"),
    [
        (body(attach=[6]), "/attach", "found atom 6 in attach, expected 1 to 5"),
        (body(attach=[2, 2]), "/attach", "found atom 2 twice in attach, expected each once"),
        (body(attach=[0]), "/attach/0", "greater than or equal to 1"),
        (body(n_atoms=5), "/n_atoms", "found 5 atoms in all, expected more than the 5 of the fragment that stay"),
        (body(n_atoms=[9, 4]), "/n_atoms", "found 4 atoms in all"),
        (body(METHANE.replace("C 0", "Si 0")), "/fragment/data", "found Si as atom 1, expected one of H, C, N, O, F"),
        (body(2 * METHANE), "/fragment/data", "found 2 structures, expected one"),
        (body("5\n\nC 0 0\n"), "/fragment/data", "expected element, x, y and z"),
        (body("30\n\n" + "".join(f"H {i} 0 0\n" for i in range(30))), "/fragment/data", "found 30 atoms"),
        (body("29\n\n" + "".join(f"H {i} 0 0\n" for i in range(29)), n_atoms=29), "/fragment/data", "at most 28"),
        (body(form="smiles3d"), "/fragment/format", "'xyz' or 'sdf'"),
        ({"attach": [1]}, "", "found attach without fragment"),
        ({**body(), "formula": "CH4", "n_atoms": None}, "", "found formula and fragment, expected one of them"),
        (body(model="tiny"), "/fragment", "found a fragment, but tiny generates all atoms"),
        ({"model": "tiny-fragment"}, "/fragment", "found no fragment, but tiny-fragment generates the atoms around"),
    ],
)
def test_fragments_that_cannot_be(http: httpx.Client, request_body: dict[str, Any], at: str, said: str) -> None:
    answer = http.post("/sample", json=request_body)
    assert_problem(answer, 422)
    (error,) = answer.json()["errors"]
    assert error["at"] == at
    assert said in error["message"]


@pytest.mark.parametrize("path", ["/likelihood", "/variations", "/interpolate"])
def test_whole_structures_are_for_other_models(http: httpx.Client, path: str) -> None:
    structures = [{"format": "xyz", "data": METHANE}] * (1 + (path == "/interpolate"))
    answer = http.post(path, json={"model": "tiny-fragment", "structures": structures})
    assert_problem(answer, 422)
    assert answer.json()["errors"][0]["at"] == "/model"
    assert "found the model tiny-fragment of the atoms around a fragment" in answer.text


def test_a_service_without_such_a_model_says_so(api: Api) -> None:
    answer = api.http.post("/sample", json=body())
    assert_problem(answer, 422)
    assert "found a fragment, but no model that takes one is loaded" in answer.text


def test_a_job_has_the_molecules_of_the_request(http: httpx.Client) -> None:
    request = {**body(attach=[2]), "n_molecules": 3}
    job = http.post("/jobs", json={"sample": request}).raise_for_status().json()
    eventually(lambda: http.get(f"/jobs/{job['id']}").json()["state"] == "done")
    found = http.get(f"/jobs/{job['id']}/results").json()["molecules"]
    for document, expected in zip(found, sampled(http, request)["molecules"], strict=True):
        assert document["fragment_atoms"] == 4
        first, second = (structure(each["xyz"]).positions for each in (document, expected))
        np.testing.assert_allclose(first, second, atol=1e-3)
    answer = http.post("/jobs", json={"sample": body(attach=[9])})
    assert_problem(answer, 422)


def test_the_examples_of_the_documentation(
    http: httpx.Client, flow: FragmentFlow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    section = page.partition("## Grow from a fragment")[2].partition("\n## ")[0]
    request, python = (re.findall(rf"```{tag}\n(.*?)```", section, re.DOTALL)[0] for tag in ("json", "python"))
    found = sampled(http, json.loads(request))["molecules"]
    assert [(each["n_atoms"], each["fragment_atoms"]) for each in found] == [(12, 3)] * 4
    monkeypatch.setattr(enflow, "load", lambda _: flow, raising=False)
    exec(compile(python, "docs/api.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_shell_and_the_client_give_the_same_molecule(
    http: httpx.Client, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, out = tmp_path / "core.sdf", tmp_path / "one.xyz"
    core.write_text(ETHANE_SDF)
    place = weights.with_name("tiny-fragment")
    options = f"--fragment {core} --attach 4 --n-atoms 9 --seed 4 --weights {place} --out {out} --device cpu"
    monkeypatch.setattr(sys, "argv", f"enflow sample {options}".split())
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    from_shell = structure(out.read_text())
    assert from_shell.properties["fragment_atoms"] == 7
    ethane = structure(ETHANE_SDF, "sdf")
    with enflow.Client(str(http.base_url)) as client:
        (from_client,) = client.sample(fragment=ethane.to_rdkit(), attach=[4], n_atoms=9, seed=4)
        (streamed,) = client.samples(fragment=ethane, attach=[4], n_atoms=9, seed=4)
    document = sampled(http, body(ETHANE_SDF, "sdf", attach=[4], n_atoms=9))["molecules"][0]
    for found in (from_shell, from_client, streamed):
        np.testing.assert_allclose(found.positions, structure(document["xyz"]).positions, atol=1e-3)
        np.testing.assert_allclose(found.positions[0], ethane.positions[0], atol=1e-6, rtol=0)
