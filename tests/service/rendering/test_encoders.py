"""Negotiation by Accept, by the rules and examples of RFC 9110, sections 12.4.2 and 12.5.1."""

import httpx
import pytest

from enflow.service.problems import Problem
from enflow.service.rendering.encoders import negotiate
from tests.service.conftest import Api

OFFERS = ("application/json", "chemical/x-xyz", "text/html")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        (", ,", "application/json"),
        ("*/*", "application/json"),
        ("*", "application/json"),
        ("*; q=.2", "application/json"),
        ("*/*;q=.5, text/html", "text/html"),
        ("text/*;q=0.3, text/html;q=0.7, */*;q=0.5", "text/html"),
        ("text/*, application/json;q=0.9", "text/html"),
        ("application/json;q=0.5, chemical/x-xyz;q=1.0000", "chemical/x-xyz"),
        ("application/json;q=0, */*;q=0.1", "chemical/x-xyz"),
        ("nonsense, text/html", "text/html"),
        ("application/json;q=2, text/html;q=0.1", "text/html"),
    ],
)
def test_the_offer_with_the_highest_quality_is_chosen(accept: str | None, chosen: str) -> None:
    assert negotiate(accept, OFFERS)[0] == chosen


@pytest.mark.parametrize("accept", ["image/png", "*/*;q=0", "application/json;q=0", "*/json", "q=1"])
def test_no_offer_is_a_problem(accept: str) -> None:
    with pytest.raises(Problem) as caught:
        negotiate(accept, OFFERS)
    assert caught.value.kind.status == 406
    assert caught.value.detail.startswith(f"found Accept: {accept}, expected one of application/json, ")


def test_parameters_of_the_media_type_are_kept() -> None:
    assert negotiate("chemical/x-xyz; Version=V3000; q=0.5", OFFERS) == ("chemical/x-xyz", {"version": "V3000"})


def test_two_accept_lines_are_one_list(api: Api) -> None:
    """RFC 9110, section 5.2: the lines of a header are joined by commas."""
    headers = httpx.Headers([("Accept", "image/png"), ("Accept", "chemical/x-xyz")])
    answer = api.http.send(httpx.Request("POST", api.http.base_url.join("/sample"), headers=headers, json={}))
    assert answer.headers["content-type"] == "chemical/x-xyz; charset=utf-8"
