"""A foreign page in a real browser: it neither reads the service by its own name nor makes it compute."""

import http.server
import threading
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from playwright.sync_api import Browser, Page

from enflow.service.settings import Settings
from tests.page.conftest import PATIENCE_MS
from tests.page.serving import browsing, missing
from tests.service import serving as service
from tests.service.conftest import Api
from tests.service.fake_client import FakeClient

WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
SEND = """async ([url, kind, text]) => {
  const form = new FormData();
  form.append("file", text);
  const body = kind ? text : form;
  const request = { method: "POST", mode: "no-cors", body, headers: kind ? { "Content-Type": kind } : {} };
  await fetch(url, request).catch(() => null); // the answer is hidden by Cross-Origin-Resource-Policy
}"""
SUBMIT = """([url, text]) => {
  const form = Object.assign(document.createElement("form"), { method: "post", enctype: "multipart/form-data" });
  form.action = url;
  form.append(Object.assign(document.createElement("input"), { name: "file", value: text }));
  document.body.append(form);
  form.submit();
}"""
SAMPLE = """async () => {
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
  return (await fetch("sample", request)).status;
}"""


class Empty(http.server.BaseHTTPRequestHandler):
    """A foreign page without content."""

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def foreign() -> Iterator[int]:
    """The port of the foreign page."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The service around a fake engine client."""
    if reason := missing():
        pytest.skip(reason)
    client, weights = FakeClient(), service.weights_with_card(tmp_path_factory.mktemp("weights"))
    with service.serving(client, Settings(weights=weights, chemistry=service.one_worker())) as (http, _):
        yield Api(http, client)


def new_page(browser: Browser) -> Page:
    """Open a page that waits as long as a slow machine takes."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def refused(api: Api) -> float:
    """Return the number of POST requests that were answered with 403."""
    lines = [line.split() for line in api.http.get("/metrics").text.splitlines() if line.startswith("enflow_requests_")]
    return sum(float(value) for name, value in lines if "_total{" in name and "POST" in name and 'status="403"' in name)


@pytest.fixture(scope="module")
def browser(running: Api) -> Iterator[Browser]:
    """A browser for which evil.example is this machine, as after DNS rebinding."""
    with browsing("--host-resolver-rules=MAP evil.example 127.0.0.1") as found:
        yield found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_own_page_computes(browser: Browser, running: Api, host: str) -> None:
    page = new_page(browser)
    page.goto(f"http://{host}:{running.http.base_url.port}/docs")
    assert page.evaluate(SAMPLE) == HTTPStatus.OK


def test_a_name_that_points_here_is_refused(browser: Browser, running: Api) -> None:
    answer = new_page(browser).goto(f"http://evil.example:{running.http.base_url.port}/limits")
    assert answer is not None
    assert answer.status == HTTPStatus.FORBIDDEN
    assert "max_molecules" not in answer.text()


@pytest.mark.parametrize(
    ("page_host", "service_host"), [("evil.example", "127.0.0.1"), ("localhost", "localhost")], ids=["name", "port"]
)
def test_a_foreign_page_computes_nothing(
    browser: Browser, running: Api, foreign: int, page_host: str, service_host: str
) -> None:
    page, url = new_page(browser), f"http://{service_host}:{running.http.base_url.port}/likelihood"
    running.client.submitted.clear()
    before = refused(running)
    page.goto(f"http://{page_host}:{foreign}/")
    for kind in ("text/plain", ""):
        page.evaluate(SEND, [url, kind, WATER])
    with page.expect_navigation():
        page.evaluate(SUBMIT, [url, WATER])
    assert "urn:enflow:problem:forbidden" in page.content()
    assert refused(running) - before == 3
    assert not running.client.submitted
