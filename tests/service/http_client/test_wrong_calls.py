"""enflow.Client with what it cannot send, and with servers that are not Enflow: one error each, and no repetition."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import enflow
from enflow.service.http_client.client import Client
from enflow.service.http_client.job import FIELDS, Job
from enflow.service.http_client.request_body import request_body
from tests.service.http_client.canned_server import answer, answering

HTML, JSON, NDJSON = "text/html; charset=utf-8", "application/json", "application/x-ndjson"
NO_SERVICE = "there is no Enflow service at this address"
JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a request is repeated."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"the client waits {seconds} s")

    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=sleep))


def refused(call: Callable[[], object]) -> str:
    """Return the error of a call, which is one line."""
    with pytest.raises(enflow.ServiceError) as error:
        call()
    assert "\n" not in str(error.value)
    assert not error.value.passing
    return str(error.value)


# Identifiers


@pytest.mark.parametrize("job_id", ["../models", "..", "", f"../jobs/{JOB}", f"{JOB}\t", JOB[1:], f"{JOB}/results"])
def test_what_is_no_identifier_of_a_job_is_no_path(job_id: str, tmp_path: Path) -> None:
    expected = f"found no job {job_id!r}, expected an id of 32 hexadecimal digits"
    with answering(answer("500 Internal Server Error")) as (url, requests), Client(url) as client:
        assert refused(lambda: client.job(job_id)) == expected
        job = Job(client._connection, {"id": job_id})
        assert refused(job.refresh) == expected
        assert refused(job.delete) == expected
        assert refused(lambda: job.save(tmp_path / "m.json")) == expected
        assert requests == []


# Answers of others


@pytest.mark.parametrize(
    ("canned", "found"),
    [
        (answer("200 OK", b"<html>", Content_Type=HTML), f"the status 200 with {HTML}"),
        (answer("200 OK", b"hello"), "the status 200 with no media type"),
        (answer("204 No Content"), "the status 204 with no media type"),
        (answer("200 OK", b"<html>", Content_Type=JSON), f"the status 200 with {JSON}"),
        (answer("200 OK", b"[" * 200_000, Content_Type=JSON), f"the status 200 with {JSON}"),
        (answer("200 OK", b"\xff{}", Content_Type=NDJSON), f"the status 200 with {NDJSON}"),
        (answer("200 OK", b"{}", Content_Type=JSON), f"the status 200 with {JSON}"),
        (answer("200 OK", b"{}\n", Content_Type=NDJSON), f"the status 200 with {NDJSON}"),
        (answer("200 OK", b"[]", Content_Type=JSON), f"the status 200 with {JSON}"),
        (
            answer("302 Found", Location="http://login/?to=here"),
            "the status 302 with no media type, which leads to http",
        ),
        (answer("404 Not Found", b"<html>", Content_Type=HTML), f"the status 404 with {HTML}"),
        (answer("404 Not Found", b'{"errors": [{"at": 1}]}', Content_Type=JSON), f"the status 404 with {JSON}"),
        (answer("200 OK", b"{}", Content_Type=JSON, Content_Encoding="gzip"), f"the status 200 with {JSON}"),
        (answer("200 OK", b"{}", Content_Type=NDJSON, Content_Encoding="gzip"), f"the status 200 with {NDJSON}"),
        (answer("404 Not Found", b"{}", Content_Encoding="gzip"), "the status 404 with no media type"),
    ],
)
def test_an_answer_of_another_server_says_what_was_found(canned: bytes, found: str) -> None:
    with answering(canned) as (url, requests), Client(url) as client:
        calls = [client.sample, client.models, client.limits, client.jobs, lambda: client.job(JOB)]
        calls += [lambda: client.submit(sample={}), lambda: client.log_prob([])]
        for call in calls:
            error = refused(call)
            assert error.startswith(f"{url}/")
            assert error.endswith(NO_SERVICE)
            assert f": found {found}" in error
        assert len(requests) == len(calls)


def test_results_of_another_server_are_no_results(tmp_path: Path) -> None:
    document = {**dict.fromkeys(FIELDS), "id": JOB, "kind": "sample", "done": 1}
    whole = json.dumps(document).encode()
    for body in (b"<html>", b"{}", b"[]"):
        with answering(answer("200 OK", body, Content_Type=NDJSON)) as (url, _), Client(url) as client:
            assert NO_SERVICE in refused(partial(Job(client._connection, document)._page, {"first": 0}))
    with answering(answer("200 OK", b"<html>", Content_Type=HTML)) as (url, _), Client(url) as client:
        job = Job(client._connection, document)
        assert "expected 200 with chemical/x-mdl-sdfile" in refused(lambda: job.save(tmp_path / "m.sdf"))
    with (
        answering(answer("200 OK", whole, Content_Type=JSON)) as (url, _),
        Client(url) as client,
    ):
        assert client.job(JOB).id == JOB
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_without_its_service_does_not_say_that_there_is_none() -> None:
    with answering(answer("502 Bad Gateway", b"<html>", Content_Type=HTML)) as (url, _), Client(url) as client:
        error = refused(lambda: client.submit(sample={}))
    assert error == f"{url}/jobs: found the status 502 with {HTML}, expected an answer of Enflow"


def test_an_address_without_tls_of_a_server_with_it_is_not_asked_again() -> None:
    with answering(b"\x15\x03\x01\x00\x02\x02\x46") as (url, requests), Client(url) as client:
        assert f"{url}: found an answer that is not HTTP (it begins with b'\\x15\\x03" in refused(client.models)
        assert len(requests) == 1


@pytest.mark.parametrize(
    "banner",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail.example ESMTP\r\n",
        b"-ERR unknown command\r\n",
        b"H",
        b"HTTP/1.1 no\r\n\r\n",
    ],
    ids=["ssh", "smtp", "redis", "one byte", "no status"],
)
def test_a_server_of_another_protocol_is_not_asked_again(banner: bytes) -> None:
    """A banner without an empty line after it looks like headers that have not ended; the server waits."""
    with answering(banner) as (url, requests), Client(url, patience_s=0 if banner == b"H" else 300) as client:
        error = refused(client.models)
        assert len(requests) == 1
    if banner == b"H":  # the connection ends within the first bytes of HTTP, as where a service is killed
        assert "the connection broke" in error
    elif banner.startswith(b"HTTP"):
        assert "found an answer that is not HTTP (illegal status line" in error
    else:
        assert (
            error == f"{url}: found an answer that is not HTTP (it begins with {banner!r}); expected an Enflow service"
        )


@pytest.mark.parametrize("canned", [answer("400 Bad Request"), b"\x15\x03\x01\x00\x02\x02\x28", b""])
def test_an_address_with_tls_of_a_service_without_it(canned: bytes) -> None:
    with answering(canned) as (url, _), Client(url.replace("http:", "https:")) as client:
        error = refused(client.models)
    assert re.search(r"found no TLS connection \(.*\); the address of a service without it has http:$", error)


# Addresses and keys


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "http://127.0.0.1:port",
        "http://127.0.0.1:65536",
        "http://",
        "http://a..b",
        "http://127.0.0.1/?q=1",
        "http://127.0.0.1/?",
        "http://127.0.0.1/#a",
        "http://a\nb",
        "http://\ud800",
    ],
    ids=repr,
)
def test_an_address_that_is_none_is_an_error_of_the_client(url: str) -> None:
    assert refused(lambda: Client(url)).startswith(f"found the address {url!r}, expected one such as http://127.0.0.1")


@pytest.mark.parametrize(
    ("key", "place"),
    [("open\nsesame", 5), ("open sesame", 5), ("opensesamé", 10), ("\x7fopen", 1), ("a\udcffb", 2)],
    ids=repr,
)
def test_a_key_that_is_none_is_an_error_of_the_client_that_does_not_repeat_it(
    key: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENFLOW_API_KEY", key)
    error = refused(Client)
    assert f"its number {place} of {len(key)}" in error
    assert "sesam" not in error
    assert refused(lambda: Client("http://127.0.0.1", key)) == error


def test_white_space_around_the_key_and_the_address_is_left_out() -> None:
    with answering(answer("403 Forbidden")) as (url, requests), Client(f" {url}\n", "\topensesame\r\n") as client:
        refused(client.models)
        assert b"Bearer opensesame\r\n" in requests[0]
    with answering(answer("403 Forbidden")) as (url, requests), Client(url, " ") as client:
        refused(client.models)
        assert b"authorization" not in requests[0].lower()


def test_a_header_that_http_does_not_have_is_not_sent_again() -> None:
    with answering(answer("403 Forbidden")) as (url, requests), Client(url) as client:
        client._connection.http.headers["X-Secret"] = "open\nsesame"
        assert "sesame" not in refused(client.models)
        assert b"".join(requests) == b""


# Bodies


def test_numbers_and_arrays_of_numpy_and_ranges_are_sent() -> None:
    fields = {
        "n_atoms": range(5, 8),
        "attach": np.array([0, 3]),
        "n_molecules": np.int64(3),
        "where": {"weight": (None, np.float32(0.5)), "ring": np.bool_(True)},
        "objects": np.array([1, None, "é"], dtype=object),
        "scalar": np.array(2),
        "texts": [np.str_("C"), "𝄞"],
    }
    assert json.loads(request_body(fields)) == {
        "n_atoms": [5, 6, 7],
        "attach": [0, 3],
        "n_molecules": 3,
        "where": {"weight": [None, 0.5], "ring": True},
        "objects": [1, None, "é"],
        "scalar": 2,
        "texts": ["C", "𝄞"],
    }


def circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "sample/temperature: found nan, expected a finite number"),
        (np.array([1, np.inf]), "sample/temperature/1: found inf, expected a finite number"),
        ("a\ud800", r"sample/temperature: found '\ud800' as character 2 of a text, which is half of a surrogate pair"),
        ({"\ud800": 1}, r"sample/temperature: found '\ud800' as character 1"),
        ({1: 1}, "sample/temperature: found a field whose name is of the type int, expected a text"),
        (b"0.8", "sample/temperature: found a value of the type bytes, expected what JSON has"),
        ({1}, "sample/temperature: found a value of the type set, expected what JSON has"),
        (circle(), "found a body that is nested too deeply"),
        (10**5000, "found an integer with too many digits"),
    ],
    ids=["nan", "inf", "text", "name", "number", "bytes", "set", "circle", "digits"],
)
def test_a_value_without_a_form_in_json_is_an_error_with_its_place(value: Any, expected: str) -> None:
    with answering(answer("500 Internal Server Error")) as (url, requests), Client(url) as client:
        assert refused(lambda: client.submit(sample={"temperature": value})).startswith(expected)
        found = refused(lambda: client.sample(temperature=value))
        assert found.startswith(expected.removeprefix("sample/"))
        assert requests == []
