"""POST /interpolate: a walk from one structure to another, and whether its ends come back."""

import json

import numpy as np
import pytest

from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
)
from enflow.service.schemas.responses import (
    WalkResponse,
)
from tests.service.api.structure_files import METHANE, WATER
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api


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
    csv = api.http.post("/interpolate", json=body, headers={"Accept": "text/csv"}).text.splitlines()
    assert [line.split(",")[csv[0].split(",").index("fraction")] for line in csv[1:]] == [
        "0.0",
        "0.25",
        "0.5",
        "0.75",
        "1.0",
    ]


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
