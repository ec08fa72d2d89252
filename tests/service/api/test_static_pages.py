"""The static routes: files of the page and of the documentation, and every other path below them."""

import gzip
import http.client
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enflow.service.api import static_pages
from tests.service.conftest import Api

FILES = ("/", "/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/assets/main.js")
MAIN = b"export const answer = 42;\n"


@pytest.fixture(autouse=True)
def _built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    """Serve a small page in the place of the built one."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "main.js").write_bytes(MAIN)
    (tmp_path / "assets" / "main.js.gz").write_bytes(gzip.compress(MAIN))
    monkeypatch.setattr(static_pages, "DIST", tmp_path)
    monkeypatch.setattr(static_pages.ASSETS, "all_directories", [tmp_path / "assets"])


def ask(api: Api, method: str, target: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Send a request without a change to its target; return status, content type and body of the answer."""
    connection = http.client.HTTPConnection(api.http.base_url.host, api.http.base_url.port or 80, timeout=60)
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Content-Type") or "", answer.read()
    connection.close()
    return found


PIECES = st.binary(max_size=12) | st.sampled_from([b"..", b".", b"", b"\x00", b"a" * 300, b"b/" * 3000, b"main.js"])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Accept-Encoding": st.sampled_from(["gzip", "gzip;q=0", "*", "br", ",;", "gzip;q=x"]),
        "Range": st.sampled_from(["bytes=0-3", "bytes=9999999-", "bytes=zz", "bytes=3-1", "x", "bytes=0-1,4-5"]),
        "If-None-Match": st.sampled_from(["*", '"x"', "W/", "é"]),
        "If-Modified-Since": st.sampled_from(["x", "Mon, 01 Jan 0001 00:00:00 GMT", "Sun, 99 Foo 99999 99:99:99 GMT"]),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "HEAD", "POST"]), st.sampled_from(["/assets/", "/docs/assets/"]), PIECES, PIECES, HEADERS
)
@example("GET", "/assets/", b"\x00", b"", {"Accept-Encoding": "gzip"})
@example("GET", "/assets/", b"a" * 300, b"", {"Accept-Encoding": "gzip"})
@example("GET", "/assets/", b"main.js", b"", {"Range": "bytes=zz"})
@example("GET", "/assets/", b"main.js", b"", {"Range": "bytes=9999999-", "Accept-Encoding": "gzip"})
def test_any_path_below_a_static_route_has_a_file_or_a_problem(
    api: Api, method: str, route: str, first: bytes, second: bytes, headers: dict[str, str]
) -> None:
    path = route + quote_from_bytes(first) + ("/" + quote_from_bytes(second) if second else "")
    encoded = {name: value.encode("utf-8").decode("latin-1") for name, value in headers.items()}
    status, content_type, _ = ask(api, method, path, encoded)
    assert status in (200, 304, 404, 405, 429)
    assert status in (200, 304) or content_type == "application/problem+json"


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("value", ["bytes=0-3", "bytes=9999999-", "bytes=zz", "bytes=0-1,4-5"])
def test_a_range_is_ignored(api: Api, path: str, value: str) -> None:
    """RFC 9110, section 14.2, allows it; Starlette answers a wrong range with plain text."""
    whole = ask(api, "GET", path, {})
    assert whole[0] == 200
    assert ask(api, "GET", path, {"Range": value}) == whole


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        *[(each, True) for each in ("gzip", "br, GZIP;q=0.5", "*", "x-gzip")],
        *[(each, False) for each in ("", "br", "gzip;q=0", "gzip; q=0.000, br", "*;q=0", "gzipped")],
    ],
)
def test_the_compressed_copy_is_for_those_who_accept_it(api: Api, accepted: str, compressed: bool) -> None:
    status, content_type, body = ask(api, "GET", "/assets/main.js", {"Accept-Encoding": accepted})
    assert (status, content_type) == (200, "text/javascript; charset=utf-8")
    assert (gzip.decompress(body) if compressed else body) == MAIN


def test_a_page_that_is_not_built_is_not_found(api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(static_pages, "DIST", tmp_path / "nothing")
    monkeypatch.setattr(static_pages.ASSETS, "directory", tmp_path / "nothing")
    monkeypatch.setattr(static_pages.ASSETS, "all_directories", [tmp_path / "nothing"])
    monkeypatch.setattr(static_pages.ASSETS, "config_checked", False)
    for path in ("/", "/assets/main.js", "/assets/style.css"):
        assert ask(api, "GET", path, {"Accept-Encoding": "gzip"})[:2] == (404, "application/problem+json")
