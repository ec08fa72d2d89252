"""Requests for foreign host names, and requests of foreign pages; tests/page/test_origin.py asks a real browser."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enflow.service.api.middleware.admission import TrustedOriginMiddleware
from enflow.service.settings import Settings
from tests.service.api.test_auth import call
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import Api
from tests.service.serving import weights_with_card

ORIGIN = "https://page.test"


def status(method: str, headers: dict[str, str], hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()) -> int:
    """Return the status of a request through the middleware; 204 = it is let in."""
    inside = TrustedOriginMiddleware(Response(status_code=204), hosts, origins)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await inside({**scope, "state": {"request_id": "r"}}, receive, send)

    async def run() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as client:
            return (await client.request(method, "/sample", headers=headers)).status_code

    return asyncio.run(run())


@pytest.mark.parametrize(
    "host",
    "localhost LOCALHOST:8000 a.localhost 127.0.0.1:8000 [::1]:8000 192.168.1.7 enflow api:8000 box.local:80 "
    "enflow.chem.svc.cluster.local enflow.internal".split(),
)
def test_names_that_nobody_can_register_are_answered(host: str) -> None:
    assert status("GET", {"Host": host}) == 204


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.test"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_host_name_is_refused(host: str, method: str) -> None:
    assert status(method, {"Host": host}) == 403


@pytest.mark.parametrize(
    ("host", "hosts", "expected"),
    [
        ("chem.example", ("chem.example",), 204),
        ("CHEM.example.:443", ("chem.example",), 204),
        ("a.chem.example", ("chem.example",), 403),
        ("a.chem.example", ("*.chem.example",), 204),
        ("evilchem.example", ("*.chem.example",), 403),
        ("any.example", ("*",), 204),
    ],
)
def test_hosts_are_a_setting(host: str, hosts: tuple[str, ...], expected: int) -> None:
    assert status("GET", {"Host": host}, hosts) == expected


FOREIGN = {"Origin": ORIGIN}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 204),  # a program
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"}, 204),
        ({"Sec-Fetch-Site": "none"}, 204),
        ({"Sec-Fetch-Site": "cross-site", **FOREIGN}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://localhost:8000"}, 204),  # a browser without Sec-Fetch-Site
        ({"Origin": "http://localhost:3000"}, 403),
        (FOREIGN, 403),
        ({"Origin": "null"}, 403),
        ({**FOREIGN, "X-Forwarded-Host": "page.test"}, 204),  # a proxy with another Host
    ],
)
def test_a_foreign_page_computes_nothing(headers: dict[str, str], expected: int) -> None:
    assert status("POST", headers) == expected
    assert status("DELETE", headers) == expected
    assert status("GET", headers) == 204


def test_pages_of_named_origins_and_hosts_may_send_requests() -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", **FOREIGN}
    assert status("POST", foreign, origins=(ORIGIN,)) == 204
    assert status("POST", foreign, origins=("*",)) == 204
    assert status("POST", foreign, origins=("https://other.test",)) == 403
    assert status("POST", FOREIGN, hosts=("page.test",)) == 204
    assert status("POST", FOREIGN, hosts=("*",)) == 403


def test_the_application_refuses_both(api: Api) -> None:
    assert_problem(api.http.get("/limits", headers={"Host": "evil.example"}), 403)
    assert_problem(api.http.post("/sample", json={}, headers={"Sec-Fetch-Site": "cross-site"}), 403)
    assert not api.client.submitted
    assert api.http.post("/sample", json={}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_with_keys_any_host_is_answered(tmp_path: Path) -> None:
    """A foreign page has no key, and what needs none is public."""
    keys = tmp_path / "keys"
    keys.write_text(f"lab:{'0' * 64}\n")
    options: dict[str, Any] = {"json": {}, "headers": {"Host": "chem.example"}}
    weights = weights_with_card(tmp_path)
    assert call(Settings(weights=weights), "POST", "/sample", **options).status_code == 403
    assert call(Settings(weights=weights, api_keys_file=keys), "POST", "/sample", **options).status_code == 401
    named = Settings(weights=weights, api_keys_file=keys, allowed_hosts=("other.example",))
    assert call(named, "POST", "/sample", **options).status_code == 403
