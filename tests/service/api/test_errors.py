"""Errors: a wrong request is answered with a problem that names the place and repeats nothing of the request."""

import asyncio
import contextlib
import json
import socket
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from starlette.types import Message

from enflow.service.api.middleware.body_limit import BodyLimitMiddleware
from enflow.service.protocol.events import Scored
from enflow.service.settings import RequestLimits, Settings
from tests.service.conftest import Api, eventually
from tests.service.fake_client import FakeClient
from tests.service.serving import one_worker, serving, weights_with_card

JSON = {"Content-Type": "application/json"}
SECRET = "surely-nobody-else-writes-this"


def assert_problem(response: httpx.Response, status: int) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "errors"}
    assert problem["status"] == status
    assert problem["instance"] == f"urn:enflow:request:{response.headers['x-request-id']}"
    assert SECRET not in response.text
    assert "Traceback" not in response.text
    return problem


@pytest.mark.parametrize(
    ("body", "status", "at"),
    [
        (b'{"deadline_s": NaN}', 422, "/deadline_s"),
        (b'{"deadline_s": Infinity}', 422, "/deadline_s"),
        (b'{"tolerance": 1e999}', 422, "/tolerance"),
        (b'{"n_molecules": true}', 422, "/n_molecules"),
        (b'{"n_molecules": "5"}', 422, "/n_molecules"),
        (b'{"n_molecules": 1.0}', 422, "/n_molecules"),
        (b'{"n_molecules": 0}', 422, "/n_molecules"),
        (b'{"n_molecules": 21}', 422, "/n_molecules"),
        (b'{"n_molecules": null}', 422, "/n_molecules"),
        (b'{"n_atoms": 30}', 422, "/n_atoms"),
        (b'{"n_atoms": []}', 422, "/n_atoms"),
        (b'{"n_atoms": [5, "6"]}', 422, "/n_atoms/1"),
        (b'{"n_atoms": [5, 6], "n_molecules": 3}', 422, ""),
        (b'{"n_atoms": {"min": 30, "max": 40}}', 422, "/n_atoms"),
        (b'{"n_atoms": {"min": 6, "max": 5}}', 422, "/n_atoms"),
        (b'{"n_atoms": {"min": 0, "max": 5}}', 422, "/n_atoms/min"),
        (b'{"n_atoms": {"min": 5}}', 422, "/n_atoms/max"),
        (b'{"seed": -1}', 422, "/seed"),
        (b'{"seed": ' + b"9" * 4000 + b"}", 422, "/seed"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, ""),
        (b'{"only": "\\ud800"}', 400, ""),
        (b'{"only": "\xed\xa0\x80"}', 400, ""),
        (b'{"only": "' + SECRET.encode() * 5000 + b'"}', 422, "/only"),
        (b'{"' + SECRET.encode() * 100 + b'": 1}', 422, ""),
        (b'{"n_molecules": 1' + b" " * 2_000_000 + b"}", 413, None),
        (b"[" * 100_000, 400, ""),
        (b'{"n_atoms": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, ""),
        (b'{"a":' * 100_000, 400, ""),
        (b"", 400, ""),
        (b"\xff\xfe", 400, ""),
        (b"[]", 422, ""),
        (b"null", 422, ""),
        (b'"' + SECRET.encode() + b'"', 422, ""),
    ],
)
def test_a_bad_body_is_a_problem_with_its_place(api: Api, body: bytes, status: int, at: str | None) -> None:
    problem = assert_problem(api.http.post("/sample", content=body, headers=JSON), status)
    places = [each["at"] for each in problem["errors"]]  # type: ignore[attr-defined]
    assert places == [] if at is None else at in places
    assert not api.client.submitted


@pytest.mark.parametrize(
    ("path", "body", "at"),
    [
        ("/sample", {"warmth": 0.5}, "/warmth"),
        ("/sample", {"seed": -1}, "/seed"),
        ("/likelihood", {"structures": [{"format": "xyz", "data": "x", "charge": 1}]}, "/structures/0/charge"),
        ("/likelihood?temperature=1", None, "/temperature"),
        *(("/sample", {name: 1}, f"/{name}") for name in ("n-molecules", "Temperature (K)", "température", "$a.b")),
    ],
)
def test_an_error_names_the_field(api: Api, path: str, body: object, at: str) -> None:
    options = {"json": body} if body else {"content": b"1", "headers": {"Content-Type": "chemical/x-xyz"}}
    problem = assert_problem(api.http.post(path, **options), 422)  # type: ignore[arg-type]
    assert [each["at"] for each in problem["errors"]] == [at]  # type: ignore[attr-defined]
    name = at.rpartition("/")[2]
    assert name in str(problem["detail"])
    assert name == "seed" or name in problem["errors"][0]["message"]  # type: ignore[index]


def test_a_byte_order_mark_before_json_is_forgiven(api: Api) -> None:
    assert api.http.post("/sample", content=b"\xef\xbb\xbf{}", headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", f"/{SECRET}", 404), ("GET", "/sample", 405), ("DELETE", "/limits", 405), ("BREW", "/sample", 405)],
)
def test_wrong_paths_and_methods(api: Api, method: str, path: str, status: int) -> None:
    response = api.http.request(method, path)
    assert_problem(response, status)
    assert status != 405 or response.headers["allow"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "text/html", "x"])
def test_json_must_be_declared(api: Api, content_type: str | None) -> None:
    """A foreign page can send these content types without a preflight request."""
    headers = {"Content-Type": content_type} if content_type else {}
    problem = assert_problem(api.http.post("/sample", content=b"{}", headers=headers), 415)
    assert "application/json" in str(problem["detail"])


def test_a_claim_of_a_gigabyte_is_refused_unread(api: Api) -> None:
    answer = _raw(api, b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", length=10**9)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sample", b"{" + b",".join(b'"k%d":1' % number for number in range(150_000)) + b"}"),
        ("/sample", b'{"n_atoms":[5' + b",5" * 900_000 + b"]}"),
        ("/sample", b'{"n_atoms":' + b"[" * 100 + b"[]" + b",[]" * 600_000 + b"]" * 100 + b"}"),
        ("/likelihood", b'{"structures":[{}' + b",{}" * 600_000 + b"]}"),
        ("/likelihood", b'{"structures":["\\\\","\\""' + b',"\\","' * 300_000 + b"]}"),
    ],
)
def test_json_of_a_million_values_is_refused_before_it_becomes_objects(api: Api, path: str, body: bytes) -> None:
    """Objects of Python for each value would take a hundred times the memory of the body, and block the event loop."""
    tracemalloc.start()
    problem = assert_problem(api.http.post(path, content=body, headers=JSON), 413)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "max_values" in str(problem["detail"])
    assert peak < 10 * len(body)


def test_commas_in_a_text_are_no_values(api: Api) -> None:
    comment = r"a comment with \\ and \" and \\\"" + "," * 100_000
    body = '{"structures": [{"format": "xyz", "data": "3\\n' + comment + '\\nO 0 0 0\\nH 1 0 0\\nH 0 1 0"}]}'
    answer = api.http.post("/likelihood", content=body.encode(), headers=JSON)
    assert answer.json()["results"][0]["formula"] == "H2O"


def test_a_chunked_body_cannot_outgrow_the_limit(api: Api) -> None:
    def chunks() -> object:
        for _ in range(40):
            yield b" " * 100_000

    response = api.http.post("/sample", content=chunks(), headers=JSON)  # type: ignore[arg-type]
    assert_problem(response, 413)


def test_an_xyz_that_claims_a_hundred_million_atoms_costs_nothing(api: Api) -> None:
    response = api.http.post(
        "/likelihood", content=b"100000000\n\nC 0 0 0\n", headers={"Content-Type": "chemical/x-xyz"}
    )
    assert response.status_code == 200
    error = response.json()["results"][0]["error"]
    assert error["status"] == 422
    assert error["errors"][0]["at"] == "structure 1, line 1, column 1"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An application that waits one second for a client; all other tests have one that waits a minute."""
    weights, client = weights_with_card(tmp_path_factory.mktemp("weights")), FakeClient()
    settings = Settings(
        weights=weights, chemistry=one_worker(), limits={"max_idle_s": 1}, header_s=1, stall_s=1, drain_s=1
    )
    with serving(client, settings) as (http, _):
        yield Api(http, client)


def test_a_body_that_pauses_is_given_up(impatient: Api) -> None:
    answer = _raw(
        impatient, b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", length=10, body=b"{"
    )
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nG"]
)
def test_headers_that_do_not_come_are_given_up(impatient: Api, start: bytes) -> None:
    with _connected(impatient) as connection:
        connection.sendall(start)
        _all_of(connection)  # returns when the server closes


def test_dripping_headers_are_given_up(impatient: Api) -> None:
    with _connected(impatient) as connection:
        eventually(lambda: _is_closed(connection, b"G"))


def test_an_answer_that_nobody_reads_is_given_up(impatient: Api) -> None:
    """The answers are twenty megabytes, more than the buffers of a socket; the client reads none of them."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(300)
        connection.connect((impatient.http.base_url.host, impatient.http.base_url.port))
        connection.sendall(20 * b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: _is_closed(connection, b"\r\n"))
        found = b""
        with contextlib.suppress(ConnectionError):
            found = _all_of(connection)
    assert found.count(b"HTTP/1.1 200") < 20


def _is_closed(connection: socket.socket, more: bytes) -> bool:
    """Send more bytes; return True once the server has closed the connection, after which it stays closed."""
    try:
        connection.sendall(more)
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://x/limits", 200), ("http://x:8000/health/live", 200), (f"http://x/{SECRET}", 404), ("http://x", 200)],
)
def test_a_target_in_absolute_form_is_understood(api: Api, target: str, status: int) -> None:
    """RFC 9112, section 3.2.2: a server must accept it, although only clients of a proxy send it."""
    with _connected(api) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert _all_of(connection).startswith(f"HTTP/1.1 {status} ".encode())


def test_what_is_no_http_is_a_problem_too(api: Api) -> None:
    with _connected(api) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = _all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["title"]


def test_an_engine_that_is_not_ready_is_alive(api: Api) -> None:
    api.client.ready = False
    problem = assert_problem(api.http.get("/health/ready"), 503)
    assert problem["detail"] == "the device answers nonsense; repeat it in 5 s"
    assert api.http.get("/health/live").json()["status"] == "ok"


def test_a_defect_is_a_500_that_tells_nothing(api: Api) -> None:
    api.client.refuse = RuntimeError(SECRET)
    assert_problem(api.http.post("/sample", json={}), 500)


def test_a_number_that_is_none_is_no_silent_null(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine fails a molecule whose NLL is not finite; a NaN in an answer is a defect."""
    parts = {"base": float("nan"), "divergence": 0.0, "dequantizer": 0.0, "n_atoms": 0.0}
    scored = Scored("", 0, float("nan"), None, parts, 60, 0.01)
    monkeypatch.setattr(api.client, "_scored", lambda work_id, index: replace(scored, id=work_id, index=index))
    assert_problem(api.http.post("/sample", json={"with_nll": True}), 500)


def test_request_ids_and_security_headers(api: Api) -> None:
    given = api.http.get("/limits", headers={"X-Request-ID": "mine-7", "Traceparent": "x"})
    assert given.headers["x-request-id"] == "mine-7"
    made = api.http.get("/limits", headers={"X-Request-ID": "<script>"})
    assert made.headers["x-request-id"] != "<script>"
    assert made.headers["content-security-policy"].startswith("default-src 'none'")
    assert made.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in api.http.get("/limits", headers={"Origin": "https://a.test"}).headers


def _connected(api: Api) -> socket.socket:
    url = api.http.base_url
    return socket.create_connection((url.host, url.port), timeout=300)


def _all_of(connection: socket.socket) -> bytes:
    found = b""
    while more := connection.recv(65536):
        found += more
    return found


def _raw(api: Api, head: bytes, length: int, body: bytes = b"") -> bytes:
    with _connected(api) as connection:
        connection.sendall(head + f"Content-Length: {length}\r\n\r\n".encode() + body)
        return _all_of(connection)


def test_a_body_of_two_lengths_does_not_reach_the_application() -> None:
    async def application(*_: object) -> None:
        raise AssertionError("called")

    async def receive() -> Message:
        raise AssertionError("called")

    async def send(message: Message) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    headers = [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "headers": headers, "state": {"request_id": "one"}}
    asyncio.run(BodyLimitMiddleware(application, RequestLimits(), 1)(scope, receive, send))
    assert sent == ["http.response.start", "http.response.body"]


def test_a_body_of_two_lengths_is_refused_and_the_connection_closed(api: Api) -> None:
    head = b"POST /sample HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=60) as connection:
        connection.sendall(
            head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
