"""Checks of answers: whether they come from Enflow, and what they hold."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import httpx

from enflow.service.http_client.errors import foreign, from_answer
from enflow.service.http_client.results import Json


def check_answer(answer: httpx.Response, media_type: str, *, safe: bool) -> None:
    """Check the status and the media type of an answer whose body is not read yet.

    Args:
        answer: the answer.
        media_type: the media type that was asked for.
        safe: the request may be sent twice.

    Raises:
        ServiceError: the service refused the request, or something else than Enflow answered.
    """
    if answer.is_error:
        with decoded(answer):
            answer.read()
        raise from_answer(answer, safe=safe)
    if not answer.is_success or answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() != media_type:
        raise foreign(answer, f"200 with {media_type}")


@contextmanager
def decoded(answer: httpx.Response) -> Iterator[None]:
    """Raise a body that cannot be decompressed as a ServiceError."""
    try:
        yield
    except httpx.DecodingError:
        encoding = answer.headers.get("Content-Encoding")
        raise foreign(answer, f"a body with the Content-Encoding {encoding} of its header") from None


def read_document(answer: httpx.Response, text: bytes | str, fields: Collection[str]) -> Json:
    """Return the JSON object of an answer, or of one of its lines.

    Args:
        answer: the answer.
        text: its body, or a line.
        fields: the fields that an object of Enflow has here.

    Raises:
        ServiceError: the text is no such object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(fields):
        raise foreign(answer, f"a JSON object with the fields {', '.join(fields)}" if fields else "a JSON object")
    return found
