"""Streamed answers, clients that disconnect, busy engines, and a service that stops."""

import json
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from enflow.service.protocol.status import Overloaded, Unavailable
from enflow.service.settings import Settings
from tests.service.api.test_errors import assert_problem
from tests.service.conftest import DEADLINES_S, Api, eventually
from tests.service.fake_client import METHANE, TORN, FakeClient
from tests.service.serving import one_worker, serving, weights_with_card


def events(answer: httpx.Response) -> list[dict[str, object]]:
    if answer.headers["content-type"].startswith("text/event-stream"):
        blocks = [block.split("\n") for block in answer.text.split("\n\n") if block]
        assert all(len(block) == 2 for block in blocks)
        assert all(block[0] == f"event: {json.loads(block[1][6:])['event']}" for block in blocks)
        return [json.loads(block[1].removeprefix("data: ")) for block in blocks]
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_molecules_come_as_they_finish(api: Api, accept: str) -> None:
    api.client.molecule = lambda index: TORN if index == 1 else METHANE
    body = {"n_molecules": 2, "seed": 5, "only": "valid"}
    found = events(api.http.post("/sample", json=body, headers={"Accept": accept}))
    names = [each["event"] for each in found]
    assert names[0] == "start"
    assert names[-1] == "done"
    assert [name for name in names[1:-1] if name != "progress"] == ["molecule", "molecule"]
    attempts = found[-1]["attempts"]
    assert isinstance(attempts, dict)
    assert (attempts["tried"], attempts["found"], attempts["rejected"]) == (3, 2, {"not valid": 1})
    whole = api.http.post("/sample", json=body).json()
    streamed = [each["molecule"] for each in found if each["event"] == "molecule"]
    assert sorted(streamed, key=lambda each: each["index"]) == whole["molecules"]  # type: ignore[index]


def test_scores_come_as_they_finish(api: Api) -> None:
    body = {"structures": [{"format": "xyz", "data": "1\n\nC 0 0 0\n"}, {"format": "xyz", "data": "rubbish"}]}
    found = events(api.http.post("/likelihood", json=body, headers={"Accept": "application/x-ndjson"}))
    scores = {each["score"]["index"]: each["score"] for each in found if each["event"] == "score"}  # type: ignore[index]
    assert scores[0]["nll"] == -0.5
    assert scores[1]["error"]["status"] == 422


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_busy_engine_answers_with_retry_after(api: Api, accept: str) -> None:
    api.client.refuse = Overloaded("client", 7.2, "found 400 molecules of this client waiting, expected at most 300")
    answer = api.http.post("/sample", json={}, headers={"Accept": accept})
    assert_problem(answer, 429)
    assert answer.headers["retry-after"] == "8"
    api.client.refuse = Overloaded("service", 0.1, "the queue is full")
    answer = api.http.post("/sample", json={}, headers={"Accept": accept})
    assert_problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    api.client.refuse = Unavailable("the engine crashed too often")
    assert_problem(api.http.post("/sample", json={}), 503)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
def test_a_disconnect_aborts_the_request(api: Api, accept: str) -> None:
    api.client.steps, api.client.pause = 100_000, 0.01
    url, body = api.http.base_url, b'{"n_molecules": 3}'
    head = f"POST /sample HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((url.host, url.port), timeout=300) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if accept != "application/json":
            assert connection.recv(1).startswith(b"H")  # the stream has begun
        eventually(lambda: len(api.client.submitted) == 1)
    eventually(lambda: len(api.client.aborted) == 1)
    assert api.client.aborted == [each.id for each in api.client.submitted]


def test_the_deadline_holds_from_end_to_end(api: Api) -> None:
    api.client.steps, api.client.pause = 100_000, 0.01
    for deadline_s in DEADLINES_S:
        before = time.time()
        assert_problem(api.http.post("/sample", json={"deadline_s": deadline_s}), 408)
        if api.client.submitted:
            break
    (wanted,) = api.client.submitted
    assert api.client.aborted == [wanted.id]
    assert wanted.deadline is not None
    assert before < wanted.deadline < time.time()


def test_a_stream_that_fails_ends_with_its_problem(api: Api) -> None:
    api.client.steps, api.client.pause = 100_000, 0.01
    for deadline_s in DEADLINES_S:
        headers = {"Accept": "application/x-ndjson"}
        answer = api.http.post("/sample", json={"deadline_s": deadline_s}, headers=headers)
        if answer.status_code == 200:  # the stream began before the deadline
            break
    found = events(answer)
    assert found[-1]["event"] == "error"
    assert found[-1]["problem"]["status"] == 408  # type: ignore[index]


def test_progress_is_sent_after_a_silence(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies close connections without traffic. The engine of this test is silent for good."""
    monkeypatch.setattr("enflow.service.api.event_stream.SILENCE_S", 0.1)
    api.client.pause = 1e6
    headers = {"Accept": "application/x-ndjson"}
    with api.http.stream("POST", "/sample", json={}, headers=headers) as answer:
        found = [json.loads(line) for line, _ in zip(answer.iter_lines(), range(3), strict=False)]
    assert [each["event"] for each in found] == ["start", "progress", "progress"]
    assert found[1]["queue"] == {"ahead": 0, "running": 0}
    eventually(lambda: len(api.client.aborted) == 1)


def test_open_streams_do_not_hold_up_the_end(tmp_path: Path) -> None:
    client = FakeClient(steps=100_000, pause=0.01)
    settings = Settings(weights=weights_with_card(tmp_path), chemistry=one_worker(), drain_s=0.5, max_open_requests=1)
    last: list[dict[str, object]] = []

    def listen(http: httpx.Client) -> None:
        with http.stream("POST", "/sample", json={}, headers={"Accept": "application/x-ndjson"}) as answer:
            last.extend(json.loads(line) for line in answer.iter_lines())

    with serving(client, settings) as (http, server):
        listener = threading.Thread(target=listen, args=(http,))
        listener.start()
        eventually(lambda: len(client.submitted) == 1)
        assert http.get("/health/ready").status_code == 200
        assert_problem(http.post("/sample", json={}), 503)  # one more than may be open at once
    listener.join()
    assert not server.force_exit
    assert last[-1]["event"] == "error"
    assert last[-1]["problem"]["status"] == 503  # type: ignore[index]
    assert client.aborted == [client.submitted[0].id]
