"""POST /variations: molecules near one, and the part of it that they keep."""

from typing import Any

import numpy as np
import pytest

from enflow.model.chem.io.formats import read
from enflow.service.protocol.requests import (
    EngineVariationRequest,
    Structure,
)
from enflow.service.schemas.requests import SampleRequest
from enflow.service.schemas.responses import (
    VariationsResponse,
)
from tests.service.api.structure_files import METHANE
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api
from tests.service.fake_client import TORN


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


@pytest.mark.parametrize("form", ["chemical/x-xyz", "chemical/x-mdl-sdfile"])
def test_a_file_of_variations_says_what_each_kept(api: Api, form: str) -> None:
    headers = {"Content-Type": "chemical/x-xyz", "Accept": form}
    answer = api.http.post("/variations?n_molecules=2&strength=0.25&seed=2", content=METHANE, headers=headers)
    found = read(answer.text)
    assert [each.properties["kept"] for each in found] == ["graph"] * 2
    for each in found:
        assert float(str(each.properties["distance"])) == pytest.approx(0, abs=1e-6)


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
    document = api.http.post("/variations?n_molecules=1&tolerance=draft", content=METHANE).json()
    assert (document["tolerance"], document["refinements"], "temperature" in document) == (0.01, 0, False)


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
