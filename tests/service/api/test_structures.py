"""POST /likelihood, /interpolate, /variations: every form of an upload, and one entry for each structure."""

import gzip
import json
from typing import Any

import numpy as np
import pytest

from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineVariationRequest,
    EstimatorOptions,
    Structure,
)
from enflow.service.schemas.requests import SampleRequest
from enflow.service.schemas.responses import (
    LikelihoodResponse,
    ScoreErrorOut,
    ScoreOut,
    VariationsResponse,
    WalkResponse,
)
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api
from tests.service.fake_client import TORN

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
XENON = "1\n\nXe 0 0 0\n"
BROKEN = "2\n\nC 0 0 0\nO 1,5 0 0\n"
MOLFILE = """water
  made by hand

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 O   0  0  0  0  0  0
    0.9600    0.0000    0.0000 H   0  0  0  0  0  0
   -0.2400    0.9300    0.0000 H   0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
M  END
"""


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
    ]
    options = {"divergence": "hutchinson", "probes": "4", "tolerance": "0.01", "deadline_s": "60"}
    answer = api.http.post("/likelihood", files=files, data=options)
    assert [each.get("formula") for each in answer.json()["results"]] == ["CH4", "H2O", "H2O", None, "CH4O"]
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


def test_a_walk_between_two(api: Api) -> None:
    texts = [METHANE, METHANE.replace("C 0 0 0", "N 0 0 0.1")]
    body = {"structures": [{"format": "xyz", "data": each} for each in texts], "steps": 5, "seed": 2}
    found = WalkResponse.model_validate_json(api.http.post("/interpolate", json=body).content)
    assert [each.fraction for each in found.molecules] == [0, 0.25, 0.5, 0.75, 1]
    assert found.molecules[0].distance == pytest.approx(0, abs=1e-6)
    # The fake engine decodes everything to methane, of which the second parent has a nitrogen 0.1 angstrom off.
    assert found.molecules[0].distance_to_end == pytest.approx(0.1 * np.sqrt(4 / 25), abs=1e-6)
    (warning,) = found.warnings
    assert warning.startswith("structure 2: found a distance of 0.04 angstrom and other elements")
    encode, back, *_, decode = api.client.submitted
    assert isinstance(encode, EngineEncodeRequest)
    assert isinstance(back, EngineDecodeRequest)
    assert isinstance(decode, EngineDecodeRequest)
    # Precise, and a hundred times as tight there and back. The second parent comes back as methane at any tolerance.
    assert encode.rtol == back.rtol == pytest.approx(1e-7)
    # The fake engine's latents are the structures: the walk begins at one parent and ends at the other.
    assert decode.latents[0].x == pytest.approx(encode.molecules[0].positions)
    assert len(decode.latents) == 5


@pytest.mark.parametrize(
    ("error", "tolerances"), [(0.0, [1e-7]), (5e3, [1e-7]), (5e4, [1e-7, 1e-8]), (1e9, [1e-7, 1e-8, 1e-9, 1e-10])]
)
def test_a_precise_walk_tightens_until_its_parents_come_back(api: Api, error: float, tolerances: list[float]) -> None:
    """The fake engine has this error, in angstrom per unit of the tolerance; the walk accepts 0.001 angstrom."""
    api.client.error = error
    assert api.http.post(
        "/interpolate?seed=2", content=2 * WATER, headers={"Content-Type": "chemical/x-xyz"}
    ).is_success
    encoded = [each.rtol for each in api.client.submitted if isinstance(each, EngineEncodeRequest)]
    assert encoded == pytest.approx(tolerances)
    *_, decode = api.client.submitted
    assert isinstance(decode, EngineDecodeRequest)
    assert (len(decode.latents), decode.rtol) == (8, pytest.approx(tolerances[-1]))


def test_a_walk_whose_structures_do_not_come_back_warns_or_fails(api: Api) -> None:
    api.client.error = 1e9  # 0.1 angstrom even at the smallest tolerance
    headers = {"Content-Type": "chemical/x-xyz"}
    found = WalkResponse.model_validate_json(api.http.post("/interpolate", content=2 * WATER, headers=headers).content)
    assert [each.partition(" of 0.")[0] for each in found.warnings] == [
        "structure 1: found a distance",
        "structure 2: found a distance",
    ]
    stream = api.http.post("/interpolate", content=2 * WATER, headers={**headers, "Accept": "application/x-ndjson"})
    assert json.loads(stream.text.splitlines()[-1])["warnings"] == found.warnings
    refused = api.http.post("/interpolate?on_mismatch=fail", content=2 * WATER, headers=headers)
    assert "after encoding and decoding, expected 0.001 at most" in str(assert_problem(refused, 422)["detail"])


def test_a_walk_finer_than_the_solver_can_follow_makes_do(api: Api) -> None:
    api.client.error, api.client.finest = 1e9, 0.5e-8
    assert api.http.post(
        "/interpolate?seed=2", content=2 * WATER, headers={"Content-Type": "chemical/x-xyz"}
    ).is_success
    *_, failed, decode = api.client.submitted
    assert isinstance(failed, EngineEncodeRequest)
    assert isinstance(decode, EngineDecodeRequest)
    assert (failed.rtol, decode.rtol) == (pytest.approx(1e-9), pytest.approx(1e-8))


def test_a_walk_that_is_not_asked_to_be_precise_is_solved_once(api: Api) -> None:
    api.client.error = 1e9
    path = "/interpolate?seed=2&tolerance=standard"
    assert api.http.post(path, content=2 * WATER, headers={"Content-Type": "chemical/x-xyz"}).is_success
    assert [each.rtol for each in api.client.submitted if isinstance(each, EngineEncodeRequest)] == pytest.approx(
        [1e-5]
    )


@pytest.mark.parametrize("name", ["strength", "scale"])
def test_variations_of_one(api: Api, name: str) -> None:
    path = f"/variations?n_molecules=3&{name}=0.25&seed=2"
    answer = api.http.post(path, content=METHANE, headers={"Content-Type": "chemical/x-xyz"})
    found = VariationsResponse.model_validate_json(answer.content)
    assert [each.index for each in found.molecules] == [0, 1, 2]
    assert [each.kept for each in found.molecules] == ["graph"] * 3
    assert [each.distance for each in found.molecules] == pytest.approx([0, 0, 0], abs=1e-6)
    assert all(each.fraction is each.distance_to_end is None for each in found.molecules)
    (request,) = api.client.submitted
    assert isinstance(request, EngineVariationRequest)
    assert (request.strength, request.count, request.seed, request.rtol) == (0.25, 3, 2, 1e-3)


def test_variations_of_a_model_that_refines_its_samples_are_not_refined(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def thrice(served: Any, request: SampleRequest) -> int:
        return 3 if request.refinements is None else request.refinements

    monkeypatch.setattr("enflow.service.handlers.sampling.refinements_of", thrice)
    headers = {"Content-Type": "chemical/x-xyz", "Accept": "chemical/x-xyz"}
    answer = api.http.post("/variations?n_molecules=1", content=METHANE, headers=headers)
    assert "tolerance=" in answer.text
    assert "refinements" not in answer.text


def test_variations_name_the_tolerance_that_they_were_computed_with(api: Api) -> None:
    headers = {"Content-Type": "chemical/x-xyz", "Accept": "chemical/x-xyz"}
    answer = api.http.post("/variations?n_molecules=1&tolerance=0.0001", content=METHANE, headers=headers)
    assert "tolerance=0.0001" in answer.text


@pytest.mark.parametrize(
    ("keep", "indices", "rejected"),
    [
        ("any", [0, 1, 2], {}),
        ("types", [0, 4, 2], {"other types": 1}),
        ("graph", [0, 4, 5], {"other types": 1, "other graph": 1}),
    ],
)
def test_variations_are_sampled_on_until_each_keeps_what_was_asked_for(
    api: Api, keep: str, indices: list[int], rejected: dict[str, int]
) -> None:
    """Molecule 1 has another element; in molecule 2 a hydrogen atom has gone from carbon; the others are the parent."""
    parent = Structure(np.array([6, 8, 1, 1]), np.array([[0, 0, 0], [1.21, 0, 0], [-0.58, 0.94, 0], [-0.58, -0.94, 0]]))
    carbene = parent.positions.copy()
    carbene[3] = [1.6, -0.88, 0]
    other = {1: Structure(np.array([6, 7, 1, 1]), parent.positions), 2: Structure(parent.atomic_numbers, carbene)}
    api.client.molecule = lambda index: other.get(index, parent)
    symbols = {1: "H", 6: "C", 8: "O"}
    rows = [f"{symbols[n]} {x} {y} {z}" for n, (x, y, z) in zip(*parent, strict=True)]
    text = "\n".join(["4", "formaldehyde", *rows, ""])
    body = {"structures": [{"format": "xyz", "data": text}], "n_molecules": 3, "keep": keep, "seed": 1}
    found = VariationsResponse.model_validate_json(api.http.post("/variations", json=body).content)
    assert [each.index for each in found.molecules] == sorted(indices)
    assert found.attempts.rejected == rejected
    assert found.attempts.tried == 3 + len(rejected)
    kept = {0: "graph", 1: "none", 2: "types", 4: "graph", 5: "graph"}
    assert [each.kept for each in found.molecules] == [kept[index] for index in sorted(indices)]


def test_variations_that_are_never_kept_are_answered_for(api: Api) -> None:
    api.client.molecule = lambda _: TORN
    body = {"structures": [{"format": "xyz", "data": METHANE}], "n_molecules": 1, "keep": "graph", "only": "valid"}
    found = VariationsResponse.model_validate_json(api.http.post("/variations", json=body).content)
    assert not found.molecules
    (failed,) = found.failed
    assert failed.detail == "none of 3 attempts was valid and of the same graph"


@pytest.mark.parametrize(
    "options", [{"keep": "graph", "data": "1\n\nC 0 0 0\n"}, {"strength": 0.5, "scale": 0.5}, {"strength": 1.1}]
)
def test_variations_that_cannot_be_asked_for(api: Api, options: dict[str, object]) -> None:
    structure = {"format": "xyz", "data": options.pop("data", METHANE)}
    assert_problem(api.http.post("/variations", json={"structures": [structure], **options}), 422)
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
