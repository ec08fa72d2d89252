"""Downloads from a local server that breaks connections, refuses, or sends other content."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enflow.model.errors import DataError
from enflow.model.training.data.download import ATTEMPTS, RemoteFile

CONTENT = bytes(range(256)) * 8000


class Server(ThreadingHTTPServer):
    """A server of CONTENT; `drops` holds the bytes that each next connection sends before it breaks (None: all)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.drops: list[int | None] = []
        self.status = 200
        self.requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        drop = self.server.drops.pop(0) if self.server.drops else None
        self.wfile.write(CONTENT[:drop])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(server: Server) -> RemoteFile:
    url = f"http://127.0.0.1:{server.server_port}/file"
    return RemoteFile("file.bin", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)


def test_a_broken_connection_is_tried_again(server, remote, tmp_path):
    server.drops = [1000, 500_000, 0]
    reports = []
    path = remote.fetch(tmp_path, lambda _, done, total: reports.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.requests == 4
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_already_here_is_verified_and_not_fetched(server, remote, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert remote.fetch(tmp_path, silent) == tmp_path / "file.bin"
    assert server.requests == 0


def test_redirects_are_followed(remote, tmp_path):
    moved = replace(remote, url=remote.url.replace("/file", "/moved"))
    assert moved.fetch(tmp_path, silent).read_bytes() == CONTENT


def test_other_content_is_refused_and_not_kept(remote, tmp_path):
    other = replace(remote, sha256="0" * 64)
    with pytest.raises(DataError, match=f"is not the expected file.*{remote.sha256}"):
        other.fetch(tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_a_damaged_local_file_is_named(remote, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=f"has {len(CONTENT) - 1} bytes; expected {len(CONTENT)}; remove it"):
        remote.fetch(tmp_path, silent)
    (tmp_path / "file.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match=f"has SHA-256 .*; expected {remote.sha256}; remove it"):
        remote.fetch(tmp_path, silent)


def test_a_refusal_names_the_status(server, remote, tmp_path):
    server.status = 404
    with pytest.raises(DataError, match="answers 404; expected the file"):
        remote.fetch(tmp_path, silent)


def test_a_server_that_sends_nothing_is_given_up(server, remote, tmp_path):
    server.drops = [0] * 50
    with pytest.raises(DataError, match="cannot be reached"):
        remote.fetch(tmp_path, silent)
    assert server.requests == ATTEMPTS
    assert not list(tmp_path.iterdir())
