"""The errors of the client."""

from collections.abc import Mapping
from typing import Any

import httpx

from enflow.model.errors import EnflowError

REFUSED = (429, 503)
"""The statuses of a request that was refused before it was computed."""

BROKEN = (502, 504)
"""The statuses of a proxy that lost the service; the request may have been computed."""


class ServiceError(EnflowError):
    """The service refused a request, gave no answer, or cannot be asked so.

    Args:
        message: the reason.
        status: the status of the answer; None where there was none.
        problem: the problem document (RFC 9457) of the answer; empty where there was none.
        retry_after: the seconds after which the service takes the same request, where it says so.
        passing: the same request may succeed later.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        *,
        retry_after: float | None = None,
        passing: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem or {}
        self.retry_after = retry_after
        self.passing = passing


def from_answer(answer: httpx.Response, *, safe: bool) -> ServiceError:
    """Return the error of an answer.

    Args:
        answer: an answer with an error status, read.
        safe: the request may be sent twice.
    """
    seconds = answer.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else None
    status = answer.status_code
    passing = status in REFUSED or (status in BROKEN and safe)
    try:
        problem = dict(answer.json())
        message = _message(problem)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a proxy answered in a form of its own
        error = foreign(answer, "an answer of Enflow")
        problem, message = {}, str(error)
    return ServiceError(message, status, problem, retry_after=retry_after, passing=passing)


def foreign(answer: httpx.Response, expected: str) -> ServiceError:
    """Return the error of an answer that is not one of Enflow.

    Args:
        answer: the answer.
        expected: what Enflow would have answered.
    """
    status, headers = answer.status_code, answer.headers
    found = f"the status {status} with {headers.get('Content-Type') or 'no media type'}"
    to = f", which leads to {headers['Location']:.200}" if answer.has_redirect_location else ""
    no_service = "" if status in REFUSED + BROKEN else "; there is no Enflow service at this address"
    return ServiceError(f"{answer.url}: found {found}{to}, expected {expected}{no_service}", status)


def from_problem(problem: Mapping[str, Any]) -> ServiceError:
    """Return the error of a problem document within an answer."""
    return ServiceError(_message(problem), problem["status"], problem, passing=problem["status"] in REFUSED)


def _message(problem: Mapping[str, Any]) -> str:
    """Return the text of a problem document: each error with its place, or the detail."""
    places = (f"{each['at'].strip('/')}: {each['message']}".removeprefix(": ") for each in problem["errors"])
    return "; ".join(places) or str(problem["detail"])
