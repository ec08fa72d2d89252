"""API keys, rates, and the refusal to listen on a public address without keys."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from enflow.model.errors import ConfigError
from enflow.service.api.app import create_app
from enflow.service.api.auth import read_keys
from enflow.service.api.middleware.admission import ApiKeys
from enflow.service.problems import Problem
from enflow.service.settings import Settings
from tests.service.fake_client import FakeClient
from tests.service.serving import weights_with_card

KEY = "a-key-made-for-this-test"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


def admit(
    access: ApiKeys, headers: dict[str, str], method: str = "POST", path: str = "/sample", host: str = "h"
) -> str:
    return access.admit(method, path, Headers(headers), host)


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY} "}, {"X-API-Key": KEY}]
)
def test_a_key_names_its_client(headers: dict[str, str]) -> None:
    access = ApiKeys({"other": "0" * 64, "lab": HASH}, per_minute=10)
    assert admit(access, headers) == "lab"
    assert admit(access, headers, "GET", "/metrics") == "lab"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": HASH}, {"X-API-Key": "ä"}, {"X-API-Key": KEY + "x"}],
)
def test_without_a_key_nothing_is_computed(headers: dict[str, str]) -> None:
    access = ApiKeys({"lab": HASH}, per_minute=10)
    for method, path in (("POST", "/sample"), ("POST", "/nothing"), ("GET", "/metrics")):
        with pytest.raises(Problem) as caught:
            admit(access, headers, method, path)
        assert caught.value.kind.status == 401
        assert caught.value.headers["WWW-Authenticate"] == "Bearer"
    assert admit(access, headers, "GET", "/docs") == "h"
    assert admit(access, headers, "GET", "/health/live") == "h"


def test_too_many_requests_of_one_client_leave_the_others_alone() -> None:
    access = ApiKeys({}, per_minute=3)
    for _ in range(3):
        assert admit(access, {}, host="eager") == "eager"
    with pytest.raises(Problem) as caught:
        admit(access, {}, host="eager")
    assert caught.value.kind.status == 429
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 61
    assert admit(access, {}, host="other") == "other"
    assert admit(access, {}, "GET", "/health/ready", host="eager") == "eager"


def test_the_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may call\n\nlab:{HASH}\n other:{'0' * 64} \n")
    assert read_keys(file) == {"lab": HASH, "other": "0" * 64}
    assert read_keys(None) == {}


@pytest.mark.parametrize("text", ["", "# none\n", f"lab:{KEY}\n", f"lab:{HASH.upper()}\n", f"the lab:{HASH}\n"])
def test_a_file_without_proper_keys_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"^ENFLOW_API_KEYS_FILE: ") as caught:
        read_keys(file)
    assert KEY not in str(caught.value)


def test_a_missing_file_of_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ENFLOW_API_KEYS_FILE: .*cannot be read"):
        read_keys(tmp_path / "nothing")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_a_public_address_needs_keys_or_permission(monkeypatch: pytest.MonkeyPatch, host: str, tmp_path: Path) -> None:
    monkeypatch.setenv("ENFLOW_HOST", host)
    with pytest.raises(ValidationError, match="ENFLOW_ALLOW_OPEN"):
        Settings()
    monkeypatch.setenv("ENFLOW_API_KEYS_FILE", str(tmp_path / "keys"))
    assert Settings().host == host
    monkeypatch.delenv("ENFLOW_API_KEYS_FILE")
    monkeypatch.setenv("ENFLOW_ALLOW_OPEN", "1")
    assert Settings().host == host


def call(settings: Settings, method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request to an application whose lifespan has not begun: a refusal needs no engine."""

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(settings, FakeClient()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, **options)

    return asyncio.run(run())


def test_other_pages_may_call_only_where_they_are_named(tmp_path: Path) -> None:
    weights = weights_with_card(tmp_path)
    ask = {"Origin": "https://page.test", "Access-Control-Request-Method": "POST"}
    named = Settings(weights=weights, cors_origins=("https://page.test",))
    assert call(named, "OPTIONS", "/sample", headers=ask).headers["access-control-allow-origin"] == "https://page.test"
    other = {**ask, "Origin": "https://other.test"}
    assert "access-control-allow-origin" not in call(named, "OPTIONS", "/sample", headers=other).headers
    assert (
        "access-control-allow-origin" not in call(Settings(weights=weights), "OPTIONS", "/sample", headers=ask).headers
    )


def test_keys_and_rates_are_asked_for_by_the_application(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"lab:{HASH}\n")
    settings = Settings(weights=weights_with_card(tmp_path), api_keys_file=keys, requests_per_minute=1)
    answer = call(settings, "POST", "/sample", json={})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_needs_no_keys(host: str) -> None:
    assert Settings(host=host).host == host


def test_settings_come_from_the_environment_and_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_LIMITS__MAX_MOLECULES", "7")
    monkeypatch.setenv("ENFLOW_CORS_ORIGINS", '["https://page.test"]')
    monkeypatch.setenv("ENFLOW_THREADS", "")
    settings = Settings()
    assert settings.limits.max_molecules == 7
    assert settings.limits.max_atoms == 29
    assert settings.cors_origins == ("https://page.test",)
    assert settings.threads is None
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
