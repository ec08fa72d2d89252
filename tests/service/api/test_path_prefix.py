"""The service below the path prefix of a reverse proxy."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from pydantic import ValidationError

from enflow.service.api import static_pages
from enflow.service.settings import Settings
from tests.service.conftest import Api
from tests.service.fake_client import FakeClient
from tests.service.reverse_proxy import PREFIX, proxying
from tests.service.serving import one_worker, serving, weights_with_card

LINK = re.compile(r'(?:href|src|url: ?)="?(?!data:|#)([^"\s>]+)"|url: "([^"]+)"')
KEY = "a-key-made-for-this-test"


@pytest.fixture(scope="module", params=["strips", "keeps"])
def below(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the proxy. One kind removes the prefix and names it; the other needs the setting."""
    strips, folder = request.param == "strips", tmp_path_factory.mktemp("weights")
    keys = folder / "keys"
    keys.write_text(f"lab:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    settings = Settings(
        weights=weights_with_card(folder),
        chemistry=one_worker(),
        api_keys_file=keys,
        root_path=None if strips else PREFIX,
    )
    with (
        serving(FakeClient(), settings) as (http, _),
        proxying(http.base_url, strips=strips) as address,
        httpx.Client(base_url=address, timeout=60, headers={"X-API-Key": KEY}) as client,
    ):
        yield client


def links(text: str) -> list[str]:
    return [first or second for first, second in LINK.findall(text)]


def test_every_link_of_the_pages_leads_below_the_prefix(below: httpx.Client) -> None:
    if not (static_pages.DIST / "index.html").is_file():
        pytest.skip("the page is not built: run `make page`")
    followed, waiting = set(), [f"{PREFIX}/"]
    while waiting:
        path = waiting.pop()
        answer = below.get(path)
        assert answer.status_code == 200, path
        followed.add(path)
        if answer.headers["content-type"].startswith("text/html") or path.endswith("start.js"):
            # A script of a page resolves addresses by the page.
            page = f"{PREFIX}/docs" if path.endswith("start.js") else path
            waiting += [found for each in links(answer.text) if (found := urljoin(page, each)) not in followed]
    assert followed >= {f"{PREFIX}/{each}" for each in ("", "assets/main.js", "docs", "docs/start.js", "openapi.json")}
    assert all(path.startswith(PREFIX) for path in followed)


def test_the_description_names_the_prefix(below: httpx.Client) -> None:
    document = below.get(f"{PREFIX}/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]
    answer = below.post(f"{document['servers'][0]['url']}/sample", json={})
    assert answer.json()["molecules"][0]["formula"] == "CH4"


def test_a_new_job_is_below_the_prefix(below: httpx.Client) -> None:
    answer = below.post(f"{PREFIX}/jobs", json={"sample": {"n_atoms": 5}})
    assert answer.headers["Location"] == f"{PREFIX}/jobs/{answer.json()['id']}"
    job = below.get(answer.headers["Location"]).json()
    assert job["n_molecules"] == 1
    listed = below.get(f"{PREFIX}/jobs").json()["jobs"]
    assert below.get(job["results"]).json()["id"] == job["id"]
    removed = below.delete(answer.headers["Location"]).json()
    assert {each["results"] for each in (answer.json(), *listed, removed)} == {job["results"]}


def test_the_prefix_opens_nothing(below: httpx.Client) -> None:
    keyless = {"X-API-Key": "none"}
    for path in (f"{PREFIX}/metrics", f"{PREFIX}/sample"):
        method = "POST" if path.endswith("sample") else "GET"
        assert below.request(method, path, headers=keyless).status_code == 401
    assert below.get(f"{PREFIX}/metrics").status_code == 200
    assert below.get(f"{PREFIX}/nothing").status_code == 404


def test_the_prefix_without_its_slash_leads_to_the_page(api: Api) -> None:
    answer = api.http.get("/x/y", headers={"X-Forwarded-Prefix": "/x/y"})
    assert (answer.status_code, answer.headers["location"]) == (307, "/x/y/")


@pytest.mark.parametrize("prefix", ["//evil.example", "x", "/a b", "/<script>", "/", "https://evil.example", "/é"])
def test_a_prefix_that_is_no_path_is_ignored(api: Api, prefix: str) -> None:
    answer = api.http.get("/openapi.json", headers={"X-Forwarded-Prefix": prefix.encode()})
    assert "servers" not in answer.json()
    assert api.http.get("/assets/%00", headers={"X-Forwarded-Prefix": "/assets"}).status_code == 404


@pytest.mark.parametrize("prefix", ["chem", "/chem/", "//", "/a b"])
def test_a_setting_that_is_no_path_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(root_path=prefix, weights=tmp_path)
