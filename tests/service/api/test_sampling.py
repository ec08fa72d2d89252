"""POST /sample: every option and format works, and every molecule is in the answer or among the failed ones."""

import io
import json
import zipfile

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from enflow.model.chem.io.formats import read
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.arguments import SizeRange
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, EstimatorOptions, Structure
from enflow.service.schemas.responses import SampleResponse
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api
from tests.service.fake_client import METHANE, TORN

OPEN_SHELL = "no bonds give every atom a closed shell at total charge 0"
WILD = Structure(METHANE.atomic_numbers, METHANE.positions * 1e9)
"""Atoms so far apart that they are no structure."""


def test_the_answer_is_what_its_description_says(api: Api) -> None:
    answer = api.http.post("/sample", json={"n_molecules": 2, "seed": 3, "with_nll": True})
    found = SampleResponse.model_validate_json(answer.content)
    assert found.seed == 3
    assert [each.index for each in found.molecules] == [0, 1]
    first = found.molecules[0]
    assert (first.formula, first.smiles, first.valid, first.stable, first.atom_stability) == (
        "CH4",
        "C",
        True,
        True,
        1.0,
    )
    assert first.bonds.charge == 0
    assert first.sdf is not None
    assert (found.attempts.tried, found.attempts.found, found.attempts.rejected) == (2, 2, {})


def test_a_range_of_sizes_reaches_the_engine_for_each_molecule(api: Api) -> None:
    answer = api.http.post("/sample", json={"n_molecules": 2, "n_atoms": {"min": 5, "max": 40}, "seed": 1})
    assert answer.status_code == 200
    (wanted,) = api.client.submitted
    assert isinstance(wanted, EngineSampleRequest)
    assert wanted.n_atoms == (SizeRange(5, 40),) * 2
    refused = api.http.post("/sample", json={"n_atoms": {"min": 9, "max": 8}}).json()
    assert "n_atoms: found min 9 above max 8, expected min at most max" in refused["detail"]


def test_the_work_says_what_the_request_said(api: Api) -> None:
    body = {"n_atoms": [5, 9], "seed": 7, "tolerance": "precise", "frames": 4, "first_index": 10, "with_nll": True}
    assert api.http.post("/sample", json=body).status_code == 200
    wanted, *scored = api.client.submitted
    assert isinstance(wanted, EngineSampleRequest)
    assert (wanted.n_atoms, wanted.seed, wanted.first_index, wanted.frames) == ((5, 9), 7, 10, 4)
    assert wanted.rtol == wanted.atol == 1e-5
    assert wanted.deadline is not None
    assert {(type(each), each.seed, each.first_index, each.options) for each in scored} == {
        (EngineLikelihoodRequest, 7, index, EstimatorOptions(rtol=1e-5, atol=1e-5)) for index in (10, 11)
    }


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        ({}, (1e-3, 1.0, 0)),
        ({"tolerance": "draft", "temperature": 0.8, "refinements": 2}, (1e-2, 0.8, 2)),
        ({"tolerance": 0.004}, (0.004, 1.0, 0)),
    ],
)
def test_an_answer_says_how_its_molecules_are_generated_again(
    api: Api, body: dict[str, object], facts: tuple[float, float, int]
) -> None:
    answer = api.http.post("/sample", json={"seed": 7, **body}).json()
    assert (answer["tolerance"], answer["temperature"], answer["refinements"]) == facts
    again = {name: answer[name] for name in ("seed", "tolerance", "temperature", "refinements")}
    api.http.post("/sample", json=again).raise_for_status()
    first, second = (each for each in api.client.submitted if isinstance(each, EngineSampleRequest))
    names = ("seed", "rtol", "atol", "temperature", "refinements", "first_index")
    assert [getattr(first, name) for name in names] == [getattr(second, name) for name in names]


def test_the_refinements_reach_the_engine_and_the_files(api: Api) -> None:
    def record(**body: int) -> Molecule:
        answer = api.http.post("/sample", json={"seed": 7, **body}, headers={"Accept": "chemical/x-mdl-sdfile"})
        (found,) = read(answer.raise_for_status().text, "sdf")
        return found

    refined, plain, card = record(refinements=2), record(refinements=0), record()
    asked = [each.refinements for each in api.client.submitted if isinstance(each, EngineSampleRequest)]
    assert asked == [2, 0, 0]
    assert int(str(refined.properties["refinements"])) == 2
    assert "refinements" not in plain.properties | card.properties
    answer = api.http.post("/sample", json={"refinements": 11})
    assert_problem(answer, 422)
    assert "/refinements" in answer.text


def test_the_temperature_reaches_the_engine_and_the_files(api: Api) -> None:
    def records(**body: float) -> list[Molecule]:
        answer = api.http.post("/sample", json={"seed": 7, **body}, headers={"Accept": "chemical/x-mdl-sdfile"})
        return list(read(answer.raise_for_status().text, "sdf"))

    (cold,), (plain,) = records(temperature=0.8), records()
    temperatures = [each.temperature for each in api.client.submitted if isinstance(each, EngineSampleRequest)]
    assert temperatures == [0.8, 1.0]
    assert float(str(cold.properties["temperature"])) == 0.8
    assert "temperature" not in plain.properties
    answer = api.http.post("/sample", json={"temperature": 0})
    assert_problem(answer, 422)
    assert "/temperature" in answer.text


def test_a_seed_is_drawn_and_told(api: Api) -> None:
    seeds = {api.http.post("/sample", json={}).json()["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert {each.seed for each in api.client.submitted if isinstance(each, EngineSampleRequest)} == seeds


def test_a_molecule_without_bonds_is_returned_with_the_reason(api: Api) -> None:
    api.client.molecule = lambda _: TORN
    (molecule,) = api.http.post("/sample", json={}).json()["molecules"]
    assert molecule["sdf"] is None
    assert molecule["smiles"] is None
    assert molecule["valid"] is False
    assert molecule["bonds"]["status"] == "failed"
    assert molecule["bonds"]["reason"]
    assert Molecule(METHANE.atomic_numbers, TORN.positions) == read(molecule["xyz"], "xyz")[0]


def test_without_bonds_a_molecule_has_its_positions_and_its_stability(api: Api) -> None:
    api.client.molecule = lambda index: METHANE if index else TORN
    body = {"n_molecules": 2, "seed": 1}
    with_bonds = api.http.post("/sample", json=body).json()
    answer = api.http.post("/sample", json={**body, "bonds": False}).json()
    assert answer["usage"]["bonds_ms"] == 0
    for molecule, other in zip(answer["molecules"], with_bonds["molecules"], strict=True):
        assert [molecule[name] for name in ("smiles", "sdf", "valid")] == [None, None, None]
        assert molecule["bonds"]["status"] == "omitted"
        for name in ("index", "formula", "stable", "atom_stability", "nfe"):
            assert molecule[name] == other[name]
        assert read(molecule["xyz"], "xyz")[0] == read(other["xyz"], "xyz")[0]
    sdf = api.http.post("/sample", json={**body, "bonds": False}, headers={"Accept": "chemical/x-mdl-sdfile"}).text
    assert sdf.count(">  <bond_status>\nomitted\n") == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"only": "valid"}, "only valid"),
        ({"unique": True}, "unique"),
        ({"properties": True}, "properties"),
        ({"where": {"qed": [0.5, None]}}, "where"),
        ({"sort": "-logp"}, "sort"),
    ],
)
def test_what_needs_bonds_is_refused_without_them(api: Api, asked: dict[str, object], said: str) -> None:
    problem = assert_problem(api.http.post("/sample", json={"bonds": False, **asked}), 422)
    assert "found bonds false and" in problem["errors"][0]["message"]
    assert said in problem["errors"][0]["message"]


def test_only_valid_tries_on_and_says_so(api: Api) -> None:
    """Molecule j tries the indices j, j + n, ...: here 0 and 2 of two molecules fail, 4 and 1 pass."""
    api.client.molecule = lambda index: TORN if index in (0, 2) else METHANE
    answer = api.http.post("/sample", json={"n_molecules": 2, "only": "valid", "seed": 1}).json()
    assert [each["index"] for each in answer["molecules"]] == [1, 4]
    assert answer["attempts"] == {"tried": 4, "found": 2, "rejected": {"not valid": 2}, "reasons": {OPEN_SHELL: 2}}
    assert answer["failed"] == []
    tried = [
        (each.first_index, len(each.n_atoms)) for each in api.client.submitted if isinstance(each, EngineSampleRequest)
    ]
    assert sorted(tried) == [(0, 2), (2, 1), (4, 1)]


def test_benzene_is_valid_but_not_stable_and_says_why(api: Api) -> None:
    """Bonds of the ring are between the lengths that the table has for single and for double bonds."""
    benzene = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1"))
    AllChem.EmbedMolecule(benzene, randomSeed=1)
    numbers = np.array([atom.GetAtomicNum() for atom in benzene.GetAtoms()])
    api.client.molecule = lambda _: Structure(numbers, benzene.GetConformer().GetPositions())
    found = api.http.post("/sample", json={}).json()["molecules"][0]
    assert (found["smiles"], found["valid"], found["stable"]) == ("c1ccccc1", True, False)
    assert found["stable_reason"].startswith(f"{12 - round(12 * found['atom_stability'])} of 12 atoms ")
    assert "convention" in found["stable_reason"]
    api.client.molecule = lambda _: METHANE
    assert api.http.post("/sample", json={}).json()["molecules"][0]["stable_reason"] is None


def test_only_stable_says_how_much_was_wrong(api: Api) -> None:
    """Torn methane has no atom with its valence; with one hydrogen away, carbon and that hydrogen lack theirs."""
    one_off = METHANE.positions.copy()
    one_off[1] *= 3
    molecules = [TORN, Structure(METHANE.atomic_numbers, one_off), TORN, METHANE]
    api.client.molecule = lambda index: dict(enumerate(molecules)).get(index, METHANE)
    answer = api.http.post("/sample", json={"n_molecules": 2, "only": "stable", "seed": 1}).json()
    lacking = "atoms without their valence by the distance table"
    expected = {"rejected": {"not stable": 3}, "reasons": {f"{lacking}: 5": 2, f"{lacking}: 2": 1}}
    assert answer["attempts"] == {"tried": 5, "found": 2, **expected}


def test_further_attempts_keep_the_size_that_was_asked_for(api: Api) -> None:
    api.client.molecule = lambda index: TORN if index < 3 else METHANE
    api.http.post("/sample", json={"n_atoms": [5, 6, 7], "only": "stable", "seed": 1})
    again = {
        each.first_index: each.n_atoms for each in api.client.submitted[1:] if isinstance(each, EngineSampleRequest)
    }
    assert again == {3: (5,), 4: (6,), 5: (7,)}


def test_the_limit_of_attempts_ends_the_search(api: Api) -> None:
    api.client.molecule = lambda index: TORN if index % 2 == 0 else METHANE
    answer = api.http.post("/sample", json={"n_molecules": 2, "only": "valid", "seed": 1}).json()
    assert [each["index"] for each in answer["molecules"]] == [1]
    assert answer["attempts"] == {"tried": 4, "found": 1, "rejected": {"not valid": 3}, "reasons": {OPEN_SHELL: 3}}
    assert answer["failed"] == [{"index": 4, "reason": "attempts", "detail": "none of 3 attempts was valid"}]


def test_rejected_molecules_are_not_scored(api: Api) -> None:
    """A score costs thirty times a sample."""
    api.client.molecule = lambda index: TORN if index == 0 else METHANE
    answer = api.http.post("/sample", json={"n_molecules": 2, "only": "valid", "with_nll": True, "seed": 1}).json()
    assert [each["nll"] for each in answer["molecules"]] == [-0.5, -0.5]
    scored = [each for each in api.client.submitted if isinstance(each, EngineLikelihoodRequest)]
    assert sorted((each.first_index, each.seed) for each in scored) == [(1, 1), (2, 1)]


def test_a_molecule_whose_nll_fails_is_returned_once_with_the_reason(api: Api) -> None:
    """The same seed would give the same failure: each likelihood is computed once."""
    api.client.unscored = {1}
    answer = api.http.post("/sample", json={"n_molecules": 2, "with_nll": True, "seed": 1}).json()
    first, second = answer["molecules"]
    assert (first["nll"], "nll_error" in first) == (-0.5, False)
    assert (second["nll"], second["nll_error"]) == (None, "non_finite: the likelihood is nan")
    assert answer["failed"] == []
    assert SampleResponse.model_validate(answer)
    scored = [each.first_index for each in api.client.submitted if isinstance(each, EngineLikelihoodRequest)]
    assert sorted(scored) == [0, 1]


def test_what_is_no_structure_is_answered_for(api: Api) -> None:
    api.client.molecule = lambda index: WILD if index == 0 else METHANE
    answer = api.http.post("/sample", json={"n_molecules": 2}).json()
    assert [each["index"] for each in answer["molecules"]] == [1]
    (failed,) = answer["failed"]
    assert (failed["index"], failed["reason"]) == (0, "structure")


def test_too_many_frames_in_all(api: Api) -> None:
    api.client.molecule = lambda _: METHANE
    assert_problem(api.http.post("/sample", json={"n_molecules": 20, "frames": 201}), 422)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/*;q=0.5, chemical/x-xyz;q=0.6", "chemical/x-xyz"),
        ("chemical/*", "chemical/x-xyz"),
        ("chemical/x-mdl-sdfile", "chemical/x-mdl-sdfile"),
        ("application/json;q=0, */*", "chemical/x-xyz"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("application/zip, application/json;q=0.9", "application/zip"),
        ("nonsense, application/json", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("Text/Event-Stream", "text/event-stream"),
    ],
)
def test_the_format_follows_accept(api: Api, accept: str, expected: str) -> None:
    answer = api.http.post("/sample", json={"seed": 5}, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == expected
    assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "chemical/x-xyz;q=2", "application"])
def test_a_format_that_is_not_there(api: Api, accept: str) -> None:
    assert_problem(api.http.post("/sample", json={}, headers={"Accept": accept}), 406)
    assert not api.client.submitted


def test_xyz_carries_provenance(api: Api) -> None:
    answer = api.http.post("/sample", json={"n_molecules": 2, "seed": 5}, headers={"Accept": "chemical/x-xyz"})
    first, second = read(answer.content, "xyz")
    assert isinstance(first, Molecule)
    assert isinstance(second, Molecule)
    assert np.array_equal(first.positions, METHANE.positions)
    assert {
        "seed": 5,
        "index": 1,
        "model": "tiny",
        "tolerance": 1e-3,
        "solver_status": "success",
    }.items() <= second.properties.items()


@pytest.mark.parametrize(("parameter", "version"), [("", "V2000"), ("; version=V3000", "V3000")])
def test_sdf_carries_bonds_and_data_items(api: Api, parameter: str, version: str) -> None:
    api.client.molecule = lambda index: TORN if index else METHANE
    headers = {"Accept": f"chemical/x-mdl-sdfile{parameter}"}
    text = api.http.post("/sample", json={"n_molecules": 2, "seed": 5, "with_nll": True}, headers=headers).text
    assert text.count("$$$$") == 2
    assert text.count(version) == 2
    assert [each.name for each in read(text, "sdf") if isinstance(each, Molecule)] == ["tiny-5-0", "tiny-5-1"]
    for item in ("seed", "index", "sha256", "tolerance", "nll", "solver_status", "bond_status"):
        assert text.count(f"<{item}>") == 2


def test_a_zip_has_every_format(api: Api) -> None:
    answer = api.http.post("/sample", json={"seed": 5}, headers={"Accept": "application/zip"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["answer.json", "molecules.sdf", "molecules.xyz"]
        assert archive.read("molecules.sdf").startswith(b"tiny-5-0\n")
        assert json.loads(archive.read("answer.json"))["seed"] == 5
