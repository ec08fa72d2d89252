"""Structures in a request: every form of an upload, and one entry for each structure."""

import gzip

import pytest

from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EstimatorOptions,
)
from enflow.service.schemas.responses import (
    LikelihoodResponse,
    ScoreErrorOut,
    ScoreOut,
)
from tests.service.api.structure_files import BROKEN, METHANE, MOLFILE, WATER, XENON
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api


def test_the_answer_is_what_its_description_says(api: Api) -> None:
    body = {"structures": [{"format": "xyz", "data": METHANE + WATER}, {"format": "sdf", "data": MOLFILE}], "seed": 4}
    found = LikelihoodResponse.model_validate_json(api.http.post("/likelihood", json=body).content)
    assert found.seed == 4
    assert [each.formula for each in found.results if isinstance(each, ScoreOut)] == ["CH4", "H2O", "H2O"]
    first = found.results[0]
    assert isinstance(first, ScoreOut)
    assert first.nll == -0.5
    assert first.nll_per_atom == -0.1
    assert first.parts.base + first.parts.divergence + first.parts.dequantizer + first.parts.n_atoms == first.nll
    assert (first.smiles, first.valid, first.stable, first.percentile) == ("C", True, True, None)


def test_one_bad_structure_never_spoils_the_others(api: Api) -> None:
    texts = [BROKEN, METHANE, XENON, "", WATER]
    body = {"structures": [{"format": "xyz", "data": each} for each in texts]}
    found = LikelihoodResponse.model_validate_json(api.http.post("/likelihood", json=body).content)
    assert [each.index for each in found.results] == [0, 1, 2, 3, 4]
    bad = {each.index: each.error for each in found.results if isinstance(each, ScoreErrorOut)}
    assert set(bad) == {0, 2, 3}
    assert bad[0].errors[0].at == "structure 1, line 4, column 3"
    assert "Xe" in bad[2].detail
    (wanted,) = api.client.submitted
    assert isinstance(wanted, EngineLikelihoodRequest)
    assert [len(each.atomic_numbers) for each in wanted.molecules] == [5, 3]


def test_a_structure_that_was_read_and_not_scored_has_its_name(api: Api) -> None:
    """One with a wrong element, one whose likelihood fails, one without a name, and one that cannot be read."""
    texts = [XENON.replace("\n\n", "\nxenon\n"), METHANE, XENON, BROKEN]
    api.client.unscored = {0}
    body = {"structures": [{"format": "xyz", "data": each} for each in texts]}
    found = api.http.post("/likelihood", json=body).json()["results"]
    assert ["error" in each for each in found] == [True] * 4
    assert [each.get("name") for each in found] == ["xenon", "methane", "", None]


def test_all_bad_is_an_answer_too(api: Api) -> None:
    answer = api.http.post("/likelihood", json={"structures": [{"format": "xyz", "data": XENON}]})
    assert answer.status_code == 200
    assert "error" in answer.json()["results"][0]
    assert not api.client.submitted


@pytest.mark.parametrize(
    ("content_type", "body", "formulas"),
    [
        ("chemical/x-xyz", METHANE + WATER, ["CH4", "H2O"]),
        ("chemical/x-xyz; charset=utf-8", "\ufeff" + WATER.replace("\n", "\r\n"), ["H2O"]),
        ("chemical/x-mdl-sdfile", MOLFILE + "$$$$\n" + MOLFILE + "$$$$\n", ["H2O", "H2O"]),
        ("chemical/x-mdl-molfile", MOLFILE, ["H2O"]),
        ("chemical/x-daylight-smiles", "CC ethane\nO\n", ["C2H6", "H2O"]),
        ("text/plain", MOLFILE, ["H2O"]),
        ("application/octet-stream", METHANE, ["CH4"]),
        (None, METHANE, ["CH4"]),
    ],
)
def test_the_file_itself(api: Api, content_type: str | None, body: str, formulas: list[str]) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = api.http.post("/likelihood?seed=9&draws=3", content=body.encode(), headers=headers)
    assert [each["formula"] for each in answer.json()["results"]] == formulas
    (wanted,) = api.client.submitted
    assert isinstance(wanted, EngineLikelihoodRequest)
    assert (wanted.seed, wanted.options.draws) == (9, 3)


def test_a_form_with_files(api: Api) -> None:
    files = [
        ("file", ("a.xyz", METHANE)),
        ("file", ("b.sdf", MOLFILE)),
        ("file", ("c", WATER)),
        ("file", ("d.bin", XENON, "chemical/x-xyz")),
        ("file", ("e.smi.gz", gzip.compress(b"CO"))),
        ("file", ("f.xyz", MOLFILE, "application/octet-stream")),  # the content counts before the ending
    ]
    options = {"divergence": "hutchinson", "probes": "4", "tolerance": "0.01", "deadline_s": "60"}
    answer = api.http.post("/likelihood", files=files, data=options)
    assert [each.get("formula") for each in answer.json()["results"]] == ["CH4", "H2O", "H2O", None, "CH4O", "H2O"]
    (wanted,) = api.client.submitted
    assert isinstance(wanted, EngineLikelihoodRequest)
    assert wanted.options == EstimatorOptions("hutchinson", 4, None, 0.01, 0.01)


def test_an_entry_has_the_name_and_the_data_of_its_structure_and_the_name_of_its_file(api: Api) -> None:
    items = MOLFILE + "> <ID>\nA-1\n\n> <nll>\n7\n\n$$$$\n" + MOLFILE
    comment = 'Properties=species:S:1:pos:R:3 energy=-40.2 smiles=[CH3][H] stress="1 2" bad=nan'
    files = [("a.sdf", items), ("b.extxyz", METHANE.replace("methane", comment)), ("c.xyz", XENON)]
    answer = api.http.post("/likelihood", files=[("file", each) for each in files])
    assert "NaN" not in answer.text
    first, second, third, fourth = answer.json()["results"]
    assert (first["file"], first["name"], first["data"]) == ("a.sdf", "water", {"ID": "A-1", "nll": "7"})
    assert first["nll"] == -0.5
    assert (second["file"], second["name"], second["data"]) == ("a.sdf", "water", {})
    assert (third["file"], third["name"], third["data"]["energy"]) == ("b.extxyz", "", -40.2)
    assert third["data"]["smiles"] == "[CH3][H]"
    assert third["smiles"] == "C"
    assert (fourth["file"], fourth["error"]["status"]) == ("c.xyz", 422)
    text = api.http.post("/likelihood", content=METHANE).json()["results"][0]
    assert (text["name"], "file" in text) == ("methane", False)


def test_options_of_a_form_may_stand_in_the_query_but_not_twice(api: Api) -> None:
    files = [("file", ("a.xyz", METHANE))]
    answer = api.http.post("/likelihood?seed=9&probes=3", files=files, data={"divergence": "hutchinson"})
    assert answer.json()["seed"] == 9
    (wanted,) = api.client.submitted
    assert isinstance(wanted, EngineLikelihoodRequest)
    assert (wanted.options.divergence, wanted.options.probes) == ("hutchinson", 3)
    for query, data in (("?seed=9", {"seed": "9"}), ("", {"seed": ["9", "8"]}), ("?seed=9&seed=8", {})):
        assert_problem(api.http.post(f"/likelihood{query}", files=files, data=data), 422)


@pytest.mark.parametrize(
    ("query", "content_type", "body", "status"),
    [
        ("", "chemical/x-xyz", "", 422),
        ("", None, "what is this", 415),
        ("", None, "", 415),
        ("", "application/pdf", METHANE, 415),
        ("", "chemical/x-xyz; gzip", METHANE, 415),
        ("", "application/x-www-form-urlencoded", METHANE, 415),
        ("", "multipart/form-data", METHANE, 400),
        ("", "multipart/form-data; boundary=x", METHANE, 400),
        (
            "",
            "multipart/form-data; boundary=x",
            '--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n1\r\n--x--',
            422,
        ),
        ("?probes=0", "chemical/x-xyz", METHANE, 422),
        ("?probes=65", "chemical/x-xyz", METHANE, 422),
        ("?probs=1", "chemical/x-xyz", METHANE, 422),
        ("?probes=1&probes=2", "chemical/x-xyz", METHANE, 422),
        ("?seed=1", "application/json", '{"structures": [{"format": "xyz", "data": "x"}]}', 422),
        ("", "application/json", '{"structures": []}', 422),
        ("", "application/json", '{"structures": [{"format": "pdb", "data": "x"}]}', 422),
        ("", "application/json", '{"structures": [{"format": "xyz", "data": "x", "more": 1}]}', 422),
        ("", "application/json", '{"structures": [' + ",".join(11 * ['{"format":"xyz","data":"x"}']) + "]}", 422),
        ("", "chemical/x-xyz", 11 * WATER, 422),
    ],
)
def test_what_cannot_be_read(api: Api, query: str, content_type: str | None, body: str, status: int) -> None:
    headers = {"Content-Type": content_type.removesuffix("; gzip")} if content_type else {}
    if content_type and content_type.endswith("; gzip"):
        headers["Content-Encoding"] = "gzip"
    assert_problem(api.http.post(f"/likelihood{query}", content=body.encode(), headers=headers), status)
    assert not api.client.submitted


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/interpolate", METHANE),
        ("/interpolate", METHANE + WATER),
        ("/interpolate", METHANE + METHANE + METHANE),
        ("/interpolate", METHANE + XENON),
        ("/interpolate", METHANE + BROKEN),
        ("/variations", METHANE + METHANE),
        ("/variations", BROKEN),
    ],
)
def test_parents_that_do_not_fit(api: Api, path: str, text: str) -> None:
    assert_problem(api.http.post(path, content=text, headers={"Content-Type": "chemical/x-xyz"}), 422)
    assert not api.client.submitted
