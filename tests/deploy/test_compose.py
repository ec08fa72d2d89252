"""docker-compose.yml and deploy/: valid by the published schema, hardened, with metrics that exist."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from enflow.service.protocol.status import Stats
from enflow.service.settings import OTHER_VARIABLES, Settings
from enflow.service.telemetry import EngineMetrics, Telemetry

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
OURS = ("cpu", "gpu")


class ComposeLoader(yaml.SafeLoader):
    """YAML with the tags that the compose specification adds for merging files."""


ComposeLoader.add_constructor("!override", ComposeLoader.construct_sequence)


def compose(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), Loader=ComposeLoader)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return compose(REPOSITORY / "docker-compose.yml")["services"]


@pytest.fixture(scope="module")
def schema() -> Any:
    # check-jsonschema carries the specification's own schema, so nothing is fetched.
    return json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())


@pytest.mark.parametrize("name", ["docker-compose.yml", "deploy/keys.yml"])
def test_compose_files_are_valid(name: str, schema: Any) -> None:
    jsonschema.validate(compose(REPOSITORY / name), schema)


def test_the_schema_is_one_that_can_say_no(schema: Any) -> None:
    wrong = compose(REPOSITORY / "docker-compose.yml")
    wrong["services"]["cpu"]["cap_dorp"] = ["ALL"]
    with pytest.raises(jsonschema.ValidationError, match="cap_dorp"):
        jsonschema.validate(wrong, schema)


def test_every_service_is_locked_down(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"], name
        assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name


def test_ports_are_published_on_the_loopback_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_docker_waits_longer_than_the_service_drains(services: dict[str, Any]) -> None:
    for name in OURS:
        grace = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace > float(services[name]["environment"]["ENFLOW_DRAIN_S"])


def test_the_containers_environment_is_one_the_service_starts_with(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = dict(re.findall(r"(ENFLOW_\w+)=(\S+)", (REPOSITORY / "Dockerfile").read_text()))
    for name, value in {**image, **services["cpu"]["environment"]}.items():
        assert name in OTHER_VARIABLES or name.removeprefix("ENFLOW_").lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    assert Settings().host == "0.0.0.0"


def test_a_plain_up_starts_the_cpu_profile(services: dict[str, Any]) -> None:
    defaults = dict(line.split("=") for line in (REPOSITORY / ".env").read_text().splitlines())
    chosen = defaults["COMPOSE_PROFILES"].split(",")
    assert [name for name, service in services.items() if set(service["profiles"]) & set(chosen)] == ["cpu"]


def test_the_gpu_profile_reserves_a_gpu(services: dict[str, Any]) -> None:
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["gpu"]["build"]["args"] == {"VARIANT": "cuda"}


def test_what_compose_mounts_and_builds_from_exists(services: dict[str, Any]) -> None:
    sources = [v.split(":")[0] for s in services.values() for v in s.get("volumes", []) if v.startswith("./")]
    assert sources
    assert all((REPOSITORY / source).is_file() for source in sources)


# Prometheus and Grafana


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Names of all series that the service exports."""
    telemetry = Telemetry()
    stats = Stats(finished={"sample": 1}, failed={"non_finite": 1})
    telemetry.watch({"qm9": EngineMetrics(lambda: stats, "0")})
    telemetry.requests.labels("POST", "/sample", "200").inc()
    telemetry.request_seconds.labels("/sample").observe(0.1)
    telemetry.bonds.labels("connectivity").inc()
    telemetry.molecules.labels("sample", "valid").inc()
    return set(re.findall(r"^(enflow_\w+)", telemetry.exposition().decode(), re.MULTILINE))


def test_the_dashboard_shows_metrics_that_exist(exported: set[str]) -> None:
    dashboard = json.loads((DEPLOY / "grafana/enflow.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for expression in expressions for name in re.findall(r"\benflow_\w+", expression)}
    assert len(shown) > 10
    assert shown <= exported


def test_the_alerts_watch_metrics_that_exist(exported: set[str]) -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    watched = {name for rule in rules for name in re.findall(r"\benflow_\w+", rule["expr"])}
    assert watched
    assert watched <= exported
