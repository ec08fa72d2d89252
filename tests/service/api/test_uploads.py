"""Uploads: a request is refused before its body is read, and its deadline and its client are watched while it is."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from enflow.service.chemistry.rdkit_pool import RDKitPool
from enflow.service.settings import RequestLimits, Settings
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import DEADLINES_S, Api, eventually
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, weights_with_card

WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
XYZ = {"Content-Type": "chemical/x-xyz"}
FORM = [("file", ("a.xyz", WATER)), ("file", ("b.xyz", WATER))]
AS_JSON = {"Content-Type": "application/json"}
HEAD = b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


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


def test_bodies_that_do_not_come_take_no_place_of_others(tmp_path: Path) -> None:
    settings = Settings(weights=weights_with_card(tmp_path), chemistry=one_worker(), max_open_requests=2)
    with serving(FakeClient(), settings) as (http, _), contextlib.ExitStack() as connections:
        for _ in range(10):
            connection = connections.enter_context(socket.create_connection((http.base_url.host, http.base_url.port)))
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        eventually(lambda: _in_flight(http) == 11)  # these and the one that asks
        assert http.post("/sample", json={}).status_code == 200


def test_the_memory_of_bodies_that_still_come_is_bounded_but_small_ones_are_taken(tmp_path: Path) -> None:
    limits = RequestLimits(max_body_s=600.0, max_idle_s=600.0)  # on a busy machine the sender would be given up
    settings = Settings(
        weights=weights_with_card(tmp_path), chemistry=one_worker(), max_arriving_bytes=1_000_000, limits=limits
    )
    large = json.dumps({"model": "x" * 300_000})
    with serving(FakeClient(), settings) as (http, _):
        assert http.post("/sample", content=large, headers=AS_JSON).status_code == 422
        with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
            connection.sendall(HEAD + b"Content-Length: 2000000\r\n\r\n" + 1_060_000 * b" ")
            eventually(lambda: http.post("/sample", content=large, headers=AS_JSON).status_code == 503)
            answer = http.post("/sample", content=large, headers=AS_JSON)
            assert_problem(answer, 503)
            assert answer.headers["retry-after"]
            assert http.post("/sample", json={}).status_code == 200
        eventually(lambda: http.post("/sample", content=large, headers=AS_JSON).status_code == 422)


def _in_flight(http: httpx.Client) -> float:
    text = http.get("/metrics").text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith("enflow_requests_in_flight "))


def _begin(api: Api, request: bytes) -> bytes:
    """Send the beginning of a request, and return the problem that comes back."""
    found = b""
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=300) as connection:
        connection.sendall(request)
        while b'"errors"' not in found and (more := connection.recv(65536)):
            found += more
    return found
