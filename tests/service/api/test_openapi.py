"""The description of the API: what FastAPI derives, what is added to it, and examples that hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI

from enflow.service.api.app import create_app
from enflow.service.settings import Settings
from tests.service.conftest import Api
from tests.service.fake_client import FakeClient
from tests.service.serving import weights_with_card

OPERATIONS = {
    ("/sample", "post"): ("sample", "molecules"),
    ("/likelihood", "post"): ("score", "structures"),
    ("/interpolate", "post"): ("interpolate", "structures"),
    ("/variations", "post"): ("variations", "structures"),
    ("/depiction", "get"): ("depiction", "structures"),
    ("/jobs", "post"): ("add_job", "jobs"),
    ("/jobs", "get"): ("list_jobs", "jobs"),
    ("/jobs/{job_id}", "get"): ("job", "jobs"),
    ("/jobs/{job_id}", "delete"): ("delete_job", "jobs"),
    ("/jobs/{job_id}/results", "get"): ("job_results", "jobs"),
    ("/models", "get"): ("models", "service"),
    ("/limits", "get"): ("limits", "service"),
    ("/health/live", "get"): ("live", "service"),
    ("/health/ready", "get"): ("ready", "service"),
}


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.http.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (path, method), operation


def test_operations_have_names_and_tags(document: dict[str, Any]) -> None:
    assert {place: (each["operationId"], each["tags"][0]) for place, each in operations(document)} == OPERATIONS
    assert {each["name"] for each in document["tags"]} == {tag for _, tag in OPERATIONS.values()}
    assert "servers" not in document  # by the specification: the root of this host


def test_every_success_answer_has_an_example_that_fits_its_schema(document: dict[str, Any]) -> None:
    for place, operation in operations(document):
        (status,) = (each for each in operation["responses"] if each.startswith("20"))
        content = operation["responses"][status]["content"]
        assert all("example" in each for kind, each in content.items() if kind != "application/zip"), place
        for each in content.values():
            if "example" in each:
                schema = {**each["schema"], "components": document["components"]}
                jsonschema.Draft202012Validator(schema).validate(each["example"])


def test_kind_tells_molecules_from_particles(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    found = schemas["SampleResponse"]["properties"]["molecules"]["items"]["discriminator"]
    names = {"molecule": "MoleculeOut", "particles": "ParticlesOut"}
    assert found["propertyName"] == "kind"
    assert found["mapping"] == {kind: f"#/components/schemas/{name}" for kind, name in names.items()}


def _application(tmp_path: Path, **settings: Any) -> FastAPI:
    return create_app(Settings(weights=weights_with_card(tmp_path), **settings), FakeClient())


def test_keys_are_described_and_optional_only_where_none_is_needed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"lab:{'0' * 64}\n")
    schemes = [{"HTTPBearer": []}, {"APIKeyHeader": []}]
    for file, expected in ((keys, schemes), (None, [*schemes, {}])):
        document = _application(tmp_path, api_keys_file=file).openapi()
        assert set(document["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
        for _, operation in operations(document):
            assert operation.get("security") == (None if "service" in operation["tags"] else expected)
