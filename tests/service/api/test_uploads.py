"""Uploads: a request is refused before its body is read, and its deadline and its client are watched while it is."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from enflow.service.chemistry.rdkit_pool import RDKitPool
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import DEADLINES_S, Api, eventually

WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
XYZ = {"Content-Type": "chemical/x-xyz"}
FORM = [("file", ("a.xyz", WATER)), ("file", ("b.xyz", WATER))]


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The outcomes of the calls of a parser that never returns."""
    outcomes: list[str] = []

    async def read(*_: Any) -> Sequence[Any]:
        outcomes.append("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise
        return []

    monkeypatch.setattr(RDKitPool, "read", read)
    return outcomes


@pytest.mark.parametrize("path", ["/likelihood", "/variations"])
@pytest.mark.parametrize("form", ["file", "form", "json"])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_the_deadline_bounds_the_parser(api: Api, parses: list[str], path: str, form: str, accept: str) -> None:
    for deadline_s in DEADLINES_S:
        assert_problem(_post(api, path, form, accept, deadline_s), 408)
        if parses:
            break
    assert set(parses) == {"started", "cancelled"}
    assert not api.client.submitted


def _post(api: Api, path: str, form: str, accept: str, deadline_s: float) -> httpx.Response:
    """Send a structure as a file, as a form or in JSON."""
    headers, query = {"Accept": accept}, {"deadline_s": deadline_s}
    if form == "json":
        body = {"structures": [{"format": "xyz", "data": WATER}], **query}
        return api.http.post(path, json=body, headers=headers)
    if form == "form":
        return api.http.post(path, files=FORM, headers=headers, params=query)
    return api.http.post(path, content=WATER, headers={**XYZ, **headers}, params=query)


def test_the_deadline_of_the_query_bounds_the_body(api: Api) -> None:
    """The server waits a minute for the next piece of a body; this deadline is shorter."""
    head = b"POST /likelihood?deadline_s=0.3 HTTP/1.1\r\nHost: x\r\nContent-Type: chemical/x-xyz\r\n"
    answer = _begin(api, head + b"Content-Length: 100\r\n\r\n3\n")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:enflow:problem:deadline" in answer


@pytest.mark.parametrize("path", ["/likelihood", "/interpolate", "/variations", "/sample"])
def test_an_answer_that_cannot_be_produced_is_refused_before_the_body_is_read(
    api: Api, parses: list[str], path: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\nContent-Type: chemical/x-xyz\r\n"
    answer = _begin(api, head.encode() + b"Content-Length: 100\r\n\r\n3\n")
    assert answer.startswith(b"HTTP/1.1 406")
    assert not parses


def test_a_client_that_leaves_ends_the_parser(api: Api, parses: list[str]) -> None:
    body = WATER.encode()
    head = (
        f"POST /likelihood HTTP/1.1\r\nHost: x\r\nContent-Type: chemical/x-xyz\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=300) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: parses == ["started"])
    eventually(lambda: parses == ["started", "cancelled"])


def test_a_structure_may_be_a_text_field_of_a_form(api: Api) -> None:
    """Forms in browsers and `curl -F "file=<molecule.xyz"` send a structure in this way."""
    answer = api.http.post("/likelihood", files=[("file", (None, WATER)), ("seed", (None, "3"))])
    assert answer.json()["seed"] == 3
    assert [each["formula"] for each in answer.json()["results"]] == ["H2O"]


def _begin(api: Api, request: bytes) -> bytes:
    """Send the beginning of a request, and return the problem that comes back."""
    found = b""
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=300) as connection:
        connection.sendall(request)
        while b'"errors"' not in found and (more := connection.recv(65536)):
            found += more
    return found
