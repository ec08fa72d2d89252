"""The OpenAPI description against the running application: requests that it allows, and requests that it forbids.

A tenth of ENFLOW_FUZZ is the number of examples of each endpoint, beside the borders of its schemas; `make fuzz` makes
that hundreds. Without it the seed is fixed, and fuzzing.toml leaves out the borders that several endpoints share.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory import resident
from tests.service.conftest import Api

EXAMPLES = max(1, int(os.environ.get("ENFLOW_FUZZ", "50")) // 10)
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "wrong_json_is_refused,unsupported_method,allow_header_conformance,errors_are_problems"
)
OPERATIONS = 14
MOST_GROWTH = 300_000_000
"""The most bytes by which the process may grow: thousands of requests fill caches and fragment the heap."""


def test_every_phase_of_schemathesis(api: Api) -> None:
    """The phases are: examples, borders of the schemas, random requests, and chains of requests."""
    before = resident()
    at_length = "ENFLOW_FUZZ" in os.environ
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += [] if at_length else ["--config-file", str(Path(__file__).with_name("fuzzing.toml"))]
    command += ["run", f"{api.http.base_url}/openapi.json"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--mode", "all", "--checks", CHECKS]
    command += ["--max-examples", str(EXAMPLES), "--request-timeout", "60", "--continue-on-failure"]
    command += [] if at_length else ["--seed", "1"]
    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.service.api.fuzzing"}
    done = subprocess.run(command, env=hooks, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    sys.stdout.write(done.stdout[-3000:])  # its figures, for `pytest -s` and for failures
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"Tested: {OPERATIONS}\b", done.stdout)
    assert resident() - before < MOST_GROWTH


def test_every_example_of_the_description_runs(api: Api) -> None:
    document = api.http.get("/openapi.json").json()
    examples = [
        (path, example)
        for path, operations in document["paths"].items()
        if (body := operations.get("post", {}).get("requestBody"))
        for name in [body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        for example in document["components"]["schemas"][name]["examples"]
    ]
    assert {path for path, _ in examples} == {"/sample", "/likelihood", "/interpolate", "/variations", "/jobs"}
    for path, example in examples:
        answer = api.http.post(path, json=example)
        assert answer.status_code == (202 if path == "/jobs" else 200), (path, example, answer.text)
        assert not any("error" in each for each in answer.json().get("results", []))


@pytest.mark.parametrize("path", ["/likelihood", "/interpolate", "/variations"])
def test_every_file_of_the_description_is_read(api: Api, path: str) -> None:
    operation = api.http.get("/openapi.json").json()["paths"][path]["post"]
    assert {each["name"] for each in operation["parameters"]} >= {"seed", "tolerance", "deadline_s"}
    files = {kind: each["example"] for kind, each in operation["requestBody"]["content"].items() if "example" in each}
    assert set(files) == {"chemical/x-xyz", "chemical/x-mdl-sdfile", "chemical/x-daylight-smiles"}
    for kind, example in files.items():
        answer = api.http.post(f"{path}?seed=1", content=example, headers={"Content-Type": kind})
        assert answer.status_code == 200, (kind, answer.text)
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
    for address in ("docs/assets/swagger-ui-bundle.js", "docs/assets/swagger-ui.css", "docs/start.js"):
        assert address in page.text
        assert api.http.get(address).status_code == 200
