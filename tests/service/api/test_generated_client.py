"""A client that openapi-python-client generates from the running service compiles, and runs the examples of the README.

The generator reads no query default: a default that it sent beside a JSON body would be refused.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from enflow.service.schemas.examples import METHANE
from tests.service.conftest import Api

PACKAGE = "enflow_generated_client"


@pytest.fixture(scope="module")
def folder(_running: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the generated package, on the path of imports."""
    folder = tmp_path_factory.mktemp("generated")
    document, config = folder / "openapi.json", folder / "config.json"
    document.write_text(_running.http.get("/openapi.json").text)
    config.write_text(json.dumps({"post_hooks": []}))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--config", str(config)]
    command += ["--path", str(document), "--output-path", str(folder / PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = {
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Unsupported", "Error", "Cannot"))
    }
    drawing = {line for line in reasons if "(Unsupported content_type image/svg+xml)" in line}
    assert reasons - drawing == {f"Unsupported content type chemical/x-{name}" for name in FILES}
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


FILES = ("xyz", "mdl-sdfile", "daylight-smiles")
"""Bodies that are files; the generator knows only JSON, forms and plain bytes."""


def module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


@pytest.fixture
def client(folder: Path, api: Api) -> Iterator[Any]:
    with module("client").AuthenticatedClient(str(api.http.base_url), token="not-needed", timeout=60) as client:
        yield client


def test_the_generated_package_compiles(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder / PACKAGE)], capture_output=True)
    assert done.returncode == 0, done.stdout


def test_operations_have_names_that_read(folder: Path) -> None:
    found = {path.stem for path in (folder / PACKAGE / "api").glob("*/*.py")} - {"__init__"}
    jobs = {"add_job", "list_jobs", "job", "delete_job", "job_results"}
    others = {"models", "limits", "live", "ready", "depiction"}
    assert found == {"sample", "score", "interpolate", "variations"} | others | jobs


def test_it_samples(client: Any) -> None:
    request = module("models.sample_request").SampleRequest(n_molecules=4, seed=7)
    found = module("api.molecules.sample").sync(client=client, body=request)
    assert (found.seed, [each.index for each in found.molecules]) == (7, [0, 1, 2, 3])
    assert {type(each).__name__ for each in found.molecules} == {"MoleculeOut"}
    assert found.molecules[0].formula == "CH4"


def test_it_samples_molecules_of_given_sizes(client: Any) -> None:
    request = module("models.sample_request").SampleRequest(n_atoms=[5, 5])
    assert len(module("api.molecules.sample").sync(client=client, body=request).molecules) == 2


def test_it_scores(client: Any) -> None:
    models = (
        module("models.likelihood_request"),
        module("models.structure_text"),
        module("models.structure_text_format"),
    )
    structure = models[1].StructureText(format_=models[2].StructureTextFormat.XYZ, data=METHANE)
    request = models[0].LikelihoodRequest(structures=[structure], seed=0)
    found = module("api.structures.score").sync(client=client, body=request)
    assert [(each.formula, each.nll) for each in found.results] == [("CH4", -0.5)]


def test_it_lists_the_models(client: Any) -> None:
    found = module("api.service.models").sync(client=client)
    assert [each["name"] for each in found.models] == ["tiny"]


def test_an_error_is_a_problem(client: Any) -> None:
    request = module("models.sample_request").SampleRequest(n_molecules=0)
    found = module("api.molecules.sample").sync(client=client, body=request)
    assert type(found).__name__ == "ProblemOut"
    assert found.status == 422
