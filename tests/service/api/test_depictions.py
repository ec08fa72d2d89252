"""The route of skeletal formulas."""

import xml.etree.ElementTree as ET

import pytest
from rdkit import Chem

from tests.service.conftest import Api

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("smiles", ["CCO", "c1ccncc1", "C#N"])
def test_draws_every_bond(api: Api, smiles: str) -> None:
    answer = api.http.get("/depiction", params={"smiles": smiles})
    assert answer.headers["Content-Type"] == "image/svg+xml"
    drawing = ET.fromstring(answer.text)
    assert drawing.tag == f"{SVG}svg"
    drawn = {
        each.get("class", "").split()[0] for each in drawing.iter(f"{SVG}path") if "bond-" in each.get("class", "")
    }
    assert len(drawn) == Chem.MolFromSmiles(smiles).GetNumBonds()


def test_has_colours_for_both_grounds(api: Api) -> None:
    light, dark = (
        api.http.get("/depiction", params={"smiles": "CC", "theme": theme}).text for theme in ("light", "dark")
    )
    assert "#000000" in light
    assert "#000000" not in dark


@pytest.mark.parametrize("query", ["smiles=C&smiles=CC", "smiles=C&size=3"])
def test_no_option_is_ignored(api: Api, query: str) -> None:
    answer = api.http.get(f"/depiction?{query}")
    assert (answer.status_code, "found a" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("smiles", ["CC(", "", "C" * 1001, "C1CC"])
def test_what_is_no_smiles_is_refused(api: Api, smiles: str) -> None:
    answer = api.http.get("/depiction", params={"smiles": smiles})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
