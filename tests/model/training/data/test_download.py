"""The truth from outside: bytes behind a local server that breaks connections, ignores ranges, or sends other bytes."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from enflow.model.errors import DataError
from enflow.model.training.data.download import RemoteFile

CONTENT = bytes(range(256)) * 8000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `drops` says how many bytes each next connection sends before it breaks (None: all)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.drops: list[int | None] = []
        self.ranges = True
        self.status = 200
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        body = CONTENT[begin:]
        self.send_response(206 if begin else self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        drop = self.server.drops.pop(0) if self.server.drops else None
        self.wfile.write(body[:drop])
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


def test_broken_connections_are_resumed_where_they_broke(server, remote, tmp_path):
    server.drops = [1000, 500_000, 0]
    told = []
    path = remote.fetch(tmp_path, lambda _, done, total: told.append((done, total)), pause=0.0)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=501000-", "bytes=501000-"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert not list(tmp_path.glob("*.part"))


def test_a_part_of_an_earlier_run_is_gone_on_with(server, remote, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:7777])
    assert remote.fetch(tmp_path, silent).read_bytes() == CONTENT
    assert server.asked == ["bytes=7777-"]


def test_a_server_without_ranges_starts_over(server, remote, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:7777])
    assert remote.fetch(tmp_path, silent).read_bytes() == CONTENT


def test_a_file_already_here_is_verified_and_not_fetched(server, remote, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert remote.fetch(tmp_path, silent) == tmp_path / "file.bin"
    assert server.asked == []


def test_redirects_are_followed(remote, tmp_path):
    moved = replace(remote, url=remote.url.replace("/file", "/moved"))
    assert moved.fetch(tmp_path, silent).read_bytes() == CONTENT


def test_other_bytes_are_refused_and_not_kept(remote, tmp_path):
    other = replace(remote, sha256="0" * 64)
    with pytest.raises(DataError, match=f"SHA-256 {remote.sha256}; expected 0000"):
        other.fetch(tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_a_longer_answer_is_refused(remote, tmp_path):
    with pytest.raises(DataError, match=r"bytes; expected 100;"):
        replace(remote, size=100).fetch(tmp_path, silent)


def test_a_damaged_file_here_is_named(remote, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=f"has {len(CONTENT) - 1} bytes; expected {len(CONTENT)}; remove it"):
        remote.fetch(tmp_path, silent)


def test_a_refusal_says_what_was_answered(server, remote, tmp_path):
    server.status = 404
    with pytest.raises(DataError, match="answers 404"):
        remote.fetch(tmp_path, silent)


def test_a_server_that_brings_nothing_ends_the_try_and_keeps_the_part(server, remote, tmp_path):
    server.drops = [1000, *[0] * 50]
    with pytest.raises(DataError, match=f"1000 of {len(CONTENT)} bytes are in .*goes on from there"):
        remote.fetch(tmp_path, silent, pause=0.0)
    server.drops = []
    assert remote.fetch(tmp_path, silent).read_bytes() == CONTENT
