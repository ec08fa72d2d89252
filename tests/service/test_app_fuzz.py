"""The OpenAPI description against the running application: whatever it allows, and whatever it forbids.

ENFLOW_FUZZ sets the number of examples of each endpoint; `make fuzz` raises it to thousands.
"""

import json
import os
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.conftest import Api

EXAMPLES = int(os.environ.get("ENFLOW_FUZZ", "25"))
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@schemathesis.serializer("chemical/x-xyz", "chemical/x-mdl-sdfile", "chemical/x-daylight-smiles")
def as_text(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


OPERATIONS = [
    ("post", "/sample"),
    ("post", "/likelihood"),
    ("post", "/interpolate"),
    ("post", "/variations"),
    ("get", "/models"),
    ("get", "/limits"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
]


@pytest.fixture(scope="session")
def description(_running: Api) -> Any:
    return schemathesis.openapi.from_url(f"{_running.http.base_url}/openapi.json")


def test_every_operation_is_tried(description: Any) -> None:
    assert {(each.ok().method, each.ok().path) for each in description.get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_description_holds(description: Any, api: Api, method: str, path: str, mode: GenerationMode) -> None:
    operation = description[path][method]
    if mode.is_negative and method == "get":
        pytest.skip("nothing to get wrong")

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="ENFLOW_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        answer = case.call(timeout=60)
        json_body = case.media_type in (None, "application/json")  # to a file everything is text
        case.validate_response(answer, checks=CHECKS if json_body else CHECKS[:-1])
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == ["application/problem+json"]
            assert answer.json()["status"] == answer.status_code

    holds()


def test_every_example_of_the_description_runs(api: Api) -> None:
    document = api.http.get("/openapi.json").json()
    examples = [
        (path, example)
        for path, operations in document["paths"].items()
        if (body := operations.get("post", {}).get("requestBody"))
        for name in [body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        for example in document["components"]["schemas"][name]["examples"]
    ]
    assert {path for path, _ in examples} == {"/sample", "/likelihood", "/interpolate", "/variations"}
    for path, example in examples:
        answer = api.http.post(path, json=example)
        assert answer.status_code == 200, (path, example, answer.text)
        assert not any("error" in each for each in answer.json().get("results", []))


def test_the_description_shows_the_limits_in_force(api: Api) -> None:
    schemas = api.http.get("/openapi.json").json()["components"]["schemas"]
    limits = api.http.get("/limits").json()
    assert schemas["SampleRequest"]["properties"]["n_molecules"]["maximum"] == limits["max_molecules"] == 20
    assert schemas["LikelihoodRequest"]["properties"]["structures"]["maxItems"] == limits["max_records"] == 10
    assert "x-limit" not in json.dumps(schemas)


def test_the_page_of_the_description_needs_nothing_from_elsewhere(api: Api) -> None:
    page = api.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in page.text.replace("<!doctype html>", "")
    for address in ("/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/docs/start.js"):
        assert address in page.text
        assert api.http.get(address).status_code == 200
