"""POST /sample with unique, properties, where and sort: the molecules of the answer are those that were asked for."""

import csv
import io
import json

import httpx
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from enflow.model.chem.io.formats import read
from enflow.model.chem.molecule import Molecule
from enflow.service.protocol.requests import EngineSampleRequest, Structure
from enflow.service.schemas.responses import SampleResponse
from tests.service.api.job_requests import ended, posted, results
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api
from tests.service.fake_client import METHANE, TORN


def structure(smiles: str) -> Structure:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return Structure(np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]), mol.GetConformer().GetPositions())


ETHANOL, BENZENE, PHENOL = structure("CCO"), structure("c1ccccc1"), structure("Oc1ccccc1")
PAIR = Structure(np.tile(METHANE.atomic_numbers, 2), np.concatenate([METHANE.positions, METHANE.positions + 5.0]))
"""Two molecules of methane, which is valid and in two pieces."""


def answer_with(api: Api, molecules: list[Structure], **body: object) -> httpx.Response:
    """Return the answer of a service that generates these molecules, the last one again and again."""
    api.client.molecule = lambda index: molecules[min(index, len(molecules) - 1)]
    return api.http.post("/sample", json={"seed": 1, **body})


def test_properties_are_in_the_answer_of_a_molecule_with_bonds(api: Api) -> None:
    """PubChem CID 702 and CID 241: weight, TPSA and InChIKey of ethanol and benzene; Crippen's logP of benzene."""
    answer = answer_with(api, [ETHANOL, BENZENE, TORN], n_molecules=3, properties=True)
    ethanol, benzene, torn = SampleResponse.model_validate_json(answer.content).molecules
    assert ethanol.properties.inchikey == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    assert ethanol.properties.weight == pytest.approx(46.07, abs=0.01)
    assert ethanol.properties.tpsa == pytest.approx(20.2, abs=0.05)
    assert (ethanol.properties.rings, ethanol.properties.donors, ethanol.properties.acceptors) == (0, 1, 1)
    assert (ethanol.properties.heavy_atoms, ethanol.properties.rotatable_bonds) == (3, 0)
    assert benzene.properties.logp == pytest.approx(1.6866, abs=1e-4)
    assert benzene.properties.rings == 1
    assert torn.properties is None
    assert "properties" not in answer_with(api, [ETHANOL]).json()["molecules"][0]


def test_files_have_the_properties_too(api: Api) -> None:
    body = {"n_molecules": 1, "properties": True, "seed": 1}
    api.client.molecule = lambda _: BENZENE
    expected = api.http.post("/sample", json=body).json()["molecules"][0]["properties"]
    for accept, form in (("chemical/x-xyz", "xyz"), ("chemical/x-mdl-sdfile", "sdf")):
        (found,) = read(api.http.post("/sample", json=body, headers={"Accept": accept}).content, form)
        assert isinstance(found, Molecule)
        assert float(str(found.properties["qed"])) == expected["qed"]
        assert found.properties["inchikey"] == "UHOVQNZJYSORNB-UHFFFAOYSA-N"


def test_csv_has_a_line_for_each_molecule(api: Api) -> None:
    api.client.molecule = lambda index: [BENZENE, TORN][index]
    body = {"n_molecules": 2, "properties": True, "seed": 1}
    answer = api.http.post("/sample", json=body, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    benzene, torn = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert (benzene["smiles"], benzene["inchikey"]) == ("c1ccccc1", "UHOVQNZJYSORNB-UHFFFAOYSA-N")
    assert float(benzene["weight"]) == pytest.approx(78.11, abs=0.01)
    assert (torn["index"], torn["valid"], torn["smiles"], torn["weight"]) == ("1", "False", "", "")


def test_unique_keeps_the_first_of_each_smiles(api: Api) -> None:
    """Molecule j of three tries j, j + 3, ...: 1 repeats 0, and 4 is new; 2 is new."""
    answer = answer_with(api, [ETHANOL, ETHANOL, BENZENE, METHANE, METHANE], n_molecules=3, unique=True).json()
    assert [(each["index"], each["smiles"]) for each in answer["molecules"]] == [(0, "CCO"), (2, "c1ccccc1"), (4, "C")]
    assert answer["attempts"]["rejected"] == {"duplicate": 1}
    assert answer["failed"] == []


def test_unique_ends_at_the_limit_of_attempts_and_says_so(api: Api) -> None:
    answer = answer_with(api, [ETHANOL], n_molecules=2, unique=True).json()
    assert [each["index"] for each in answer["molecules"]] == [0]
    assert answer["failed"] == [{"index": 5, "reason": "attempts", "detail": "none of 3 attempts was new"}]
    assert answer["attempts"]["tried"] == 4


def test_molecules_without_bonds_are_no_duplicates(api: Api) -> None:
    answer = answer_with(api, [TORN], n_molecules=2, unique=True).json()
    assert [each["index"] for each in answer["molecules"]] == [0, 1]


def test_where_samples_on_until_the_properties_are_within_bounds(api: Api) -> None:
    """Ethanol and torn methane have no ring; phenol has one and a donor."""
    body = {"n_molecules": 2, "where": {"rings": [1, None], "donors": [1, 1]}}
    answer = answer_with(api, [ETHANOL, TORN, BENZENE, PHENOL, PHENOL], **body).json()
    assert [(each["index"], each["smiles"]) for each in answer["molecules"]] == [(3, "Oc1ccccc1"), (4, "Oc1ccccc1")]
    assert answer["molecules"][0]["properties"]["donors"] == 1
    assert answer["attempts"]["rejected"] == {"out of bounds": 2, "not valid": 1}
    assert answer["attempts"]["reasons"]["rings below 1"] == 1
    assert answer["attempts"]["reasons"]["donors below 1"] == 1


def test_connected_keeps_what_is_valid_and_in_one_piece(api: Api) -> None:
    answer = answer_with(api, [PAIR, TORN, ETHANOL], only="connected", properties=True).json()
    ((kept,), attempts) = answer["molecules"], answer["attempts"]
    assert (kept["index"], kept["valid"], kept["properties"]["connected"]) == (2, True, True)
    assert attempts["rejected"] == {"not connected": 1, "not valid": 1}
    assert attempts["reasons"]["the bonds make 2 pieces"] == 1
    assert answer_with(api, [PAIR], only="valid").json()["molecules"][0]["smiles"] == "C.C"
    (apart,) = answer_with(api, [ETHANOL, TORN, PAIR], where={"connected": False}).json()["molecules"]
    assert (apart["index"], apart["properties"]["connected"]) == (2, False)


def test_where_says_how_far_it_came(api: Api) -> None:
    answer = answer_with(api, [ETHANOL], where={"qed": [0.9, None]}, only="valid").json()
    assert answer["molecules"] == []
    detail = "none of 3 attempts was valid and within the bounds"
    assert answer["failed"] == [{"index": 2, "reason": "attempts", "detail": detail}]
    assert answer["attempts"]["reasons"] == {"qed below 0.9": 3}


def test_the_bounds_are_inclusive(api: Api) -> None:
    (found,) = answer_with(api, [BENZENE], properties=True).json()["molecules"]
    qed = found["properties"]["qed"]
    assert len(answer_with(api, [BENZENE], where={"qed": [qed, qed]}).json()["molecules"]) == 1


@pytest.mark.parametrize(("sort", "expected"), [("weight", [2, 0, 1, 3]), ("-weight", [1, 0, 2, 3])])
def test_sort_orders_documents_and_files(api: Api, sort: str, expected: list[int]) -> None:
    """46, 78 and 16 g/mol; the molecule without bonds, which has no property, is the last."""
    molecules = [ETHANOL, BENZENE, METHANE, TORN]
    answer = answer_with(api, molecules, n_molecules=4, sort=sort).json()
    assert [each["index"] for each in answer["molecules"]] == expected
    assert answer["sort"] == sort
    xyz = api.http.post(
        "/sample", json={"n_molecules": 4, "seed": 1, "sort": sort}, headers={"Accept": "chemical/x-xyz"}
    )
    assert [each.properties["index"] for each in read(xyz.content, "xyz") if isinstance(each, Molecule)] == expected


def test_a_stream_sends_molecules_when_they_are_finished_and_the_order_at_its_end(api: Api) -> None:
    api.client.molecule = lambda index: [ETHANOL, BENZENE, METHANE][index]
    body = {"n_molecules": 3, "seed": 1, "sort": "-weight"}
    answer = api.http.post("/sample", json=body, headers={"Accept": "application/x-ndjson"})
    *_, done = map(json.loads, answer.text.splitlines())
    assert done["event"] == "done"
    assert done["order"] == [1, 0, 2]


def test_a_stream_of_unique_molecules_has_no_duplicate(api: Api) -> None:
    api.client.molecule = lambda index: [ETHANOL, ETHANOL, BENZENE, METHANE, METHANE][index]
    body = {"n_molecules": 3, "seed": 1, "unique": True}
    answer = api.http.post("/sample", json=body, headers={"Accept": "application/x-ndjson"})
    events = list(map(json.loads, answer.text.splitlines()))
    assert sorted(each["molecule"]["index"] for each in events if each["event"] == "molecule") == [0, 2, 4]


def test_molecules_that_are_not_kept_are_not_scored(api: Api) -> None:
    answer_with(api, [ETHANOL, ETHANOL, BENZENE], n_molecules=2, unique=True, with_nll=True, sort="nll")
    scored = [each for each in api.client.submitted if not isinstance(each, EngineSampleRequest)]
    assert len(scored) == 2


@pytest.mark.parametrize(
    ("body", "at", "message"),
    [
        ({"where": {"qed": [0.5]}}, "/where/qed", "expected [lower, upper]"),
        ({"where": {"qed": [0.9, 0.5]}}, "/where/qed", "found a lower bound above the upper one"),
        ({"where": {"mass": [1, 2]}}, "/where", "expected weight, heavy_atoms, logp, tpsa, qed, rings"),
        ({"where": {"novel": 1}}, "/where/novel", "boolean"),
        ({"where": {"connected": [1, 1]}}, "/where/connected", "boolean"),
        ({"bonds": False, "only": "connected"}, "", "found bonds false and only connected"),
        ({"sort": "mass"}, "/sort", "expected one of weight, heavy_atoms, logp"),
        ({"sort": "nll"}, "", "expected with_nll: true"),
        ({"unique": 1}, "/unique", "boolean"),
    ],
)
def test_errors_name_the_field_and_the_expected_value(api: Api, body: dict[str, object], at: str, message: str) -> None:
    (error,) = assert_problem(api.http.post("/sample", json=body), 422)["errors"]
    assert error["at"] == at
    assert message in error["message"]


def test_a_job_has_the_molecules_and_properties_of_one_request(api: Api) -> None:
    api.client.molecule = lambda index: [ETHANOL, BENZENE, PHENOL][index % 3]
    body = {"n_molecules": 2, "where": {"rings": [1, None]}, "seed": 1}
    whole = api.http.post("/sample", json=body).json()
    job = posted(api.http, {"sample": body})
    assert ended(api.http, job)["state"] == "done"
    in_places = results(api.http, job)["molecules"]  # a job's are in the order of their places
    assert sorted(in_places, key=lambda each: int(each["index"])) == whole["molecules"]
    assert all(each["properties"]["rings"] == 1 for each in whole["molecules"])


@pytest.mark.parametrize("field", [{"unique": True}, {"sort": "-qed"}])
def test_jobs_refuse_what_needs_all_molecules_at_once(api: Api, field: dict[str, object]) -> None:
    answer = api.http.post("/jobs", json={"sample": {"n_molecules": 2, **field}})
    assert "expected none" in assert_problem(answer, 422)["detail"] + str(answer.json()["errors"])
