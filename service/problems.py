"""The table of all errors of the service, and their form as problem+json (RFC 9457)."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from enflow.model.errors import EnflowError, StructureError, VocabularyError

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 20
"""The most errors that one problem lists; a body may hold a million wrong items."""


RETRY_S = 5
"""Seconds of Retry-After where nothing better is known: an engine is replaced in about this time."""


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem: the name in its `type`, the HTTP status and the title."""

    name: str
    status: int
    title: str


KINDS = {
    kind.name: kind
    for kind in (
        ProblemType("malformed", 400, "The request cannot be read"),
        ProblemType("unauthorized", 401, "A valid API key is needed"),
        ProblemType("forbidden", 403, "Not allowed"),
        ProblemType("not-found", 404, "There is nothing here"),
        ProblemType("method-not-allowed", 405, "This method does not work here"),
        ProblemType("not-acceptable", 406, "None of the accepted formats can be produced"),
        ProblemType("deadline", 408, "The deadline of the request passed before the work was done"),
        ProblemType("request-timeout", 408, "The request arrived too slowly"),
        ProblemType("too-large", 413, "The request is too large"),
        ProblemType("unsupported-media-type", 415, "This format is not understood"),
        ProblemType("invalid", 422, "The request was read but cannot be carried out"),
        ProblemType("busy-client", 429, "Too much work from this client"),
        ProblemType("internal", 500, "A defect of the service"),
        ProblemType("unavailable", 503, "The service cannot take this work now"),
    )
}
BY_STATUS = {kind.status: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class At:
    """An error and its place: a JSON pointer, or a place in a file."""

    at: str
    message: str


@dataclass
class Problem(Exception):  # noqa: N818 - the name of the standard
    """An error that the application answers with; it may be raised in every layer below `api`."""

    name: str
    detail: str
    errors: Sequence[At] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind.status in (429, 503):  # the caller is always told when to come back
            self.headers = {**retry_after(RETRY_S), **self.headers}

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"

    @property
    def kind(self) -> ProblemType:
        """The row of the table with this name."""
        return KINDS[self.name]

    @property
    def _time_to_repeat(self) -> str:
        """The time of the header as text, for a caller who sees the body alone."""
        seconds = self.headers.get("Retry-After")
        return f"; repeat it in {seconds} s" if seconds else ""

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the problem document of RFC 9457."""
        return {
            "type": f"urn:enflow:problem:{self.kind.name}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail + self._time_to_repeat,
            "instance": f"urn:enflow:request:{request_id}",
            "errors": [{"at": error.at, "message": error.message} for error in self.errors[:MOST_ERRORS]],
        }

    def body(self, request_id: str) -> bytes:
        """Return the problem document as JSON."""
        return json.dumps(self.document(request_id), ensure_ascii=False).encode()


class EngineFailure(Problem):
    """The engine failed while it computed: "unavailable" for a caller, who may repeat the request."""

    def __init__(self, detail: str) -> None:
        super().__init__("unavailable", detail)


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header Retry-After: whole seconds, from 1 to 3600."""
    return {"Retry-After": str(max(1, min(3600, math.ceil(seconds))))}


def from_status(status: int) -> Problem:
    """Return the problem for a status that the web framework raised."""
    kind = BY_STATUS.get(status, KINDS["internal" if status >= 500 else "malformed"])
    details = {
        404: "found no such path; GET /docs lists the paths",
        405: "found this path for another method only; GET /docs lists the methods",
    }
    return Problem(kind.name, details.get(kind.status, kind.title.lower()))


def from_structure(error: EnflowError) -> Problem:
    """Return the problem of a structure that cannot be read or used, with its place."""
    place, message = (error.place, error.message) if isinstance(error, StructureError) else ("", str(error))
    return Problem("invalid", str(error), [At(place, message)])


def from_exception(error: Exception) -> Problem:
    """Return the problem of an exception; an unforeseen one is a defect, and its message stays in the log."""
    match error:
        case Problem():
            return error
        case StructureError() | VocabularyError():
            return from_structure(error)
        case _:
            return Problem(
                "internal", "the service failed on this request; its log holds the place under the request id"
            )


def public_reason(error: BaseException) -> str:
    """Return the type and the message of an exception without the folders that it names, for a caller."""
    return f"{type(error).__name__}: {_FOLDERS.sub('', str(error))}"


def from_validation(error: ValidationError) -> Problem:
    """Return the problem of a document that does not fit its schema."""
    return from_errors(error.errors(include_input=False, include_context=False, include_url=False))


def from_errors(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Return the problem of Pydantic's errors; it repeats no value, and a field's name only where it is harmless."""
    if any(each["type"] == "json_invalid" for each in errors):
        return Problem("malformed", "the body is not JSON", [At("", each["msg"]) for each in errors])
    # Of a union there is an error for each member; the member that has the type of the value says most.
    ordered = sorted(errors, key=lambda each: str(each["type"]).endswith("_type"))
    unique = list(dict.fromkeys(At(*_explain(each["type"], each["loc"], each["msg"])) for each in ordered))
    first = ": ".join(part for part in (unique[0].at.lstrip("/"), unique[0].message) if part)
    return Problem("invalid", f"the request does not fit its description (GET /docs): {first}", unique)


def _explain(kind: str, place: tuple[int | str, ...], message: str) -> tuple[str, str]:
    if kind != "extra_forbidden":
        return _pointer(place), message.removeprefix("Value error, ")
    name = str(place[-1])
    if not _FIELD_NAME.fullmatch(name):  # the sender made it up, and it may be a piece of an upload
        return _pointer(place[:-1]), "found a field that does not exist here"
    return f"{_pointer(place[:-1])}/{name}", f"found a field {name}, which does not exist here"


def _pointer(place: tuple[int | str, ...]) -> str:
    # Pydantic puts the tried member of a union into the place: "list[int]", "int", "constrained-str".
    fields = (part for part in place if isinstance(part, int) or (part.isidentifier() and part not in _TYPES))
    return "".join(f"/{part}" for part in fields)


_FIELD_NAME = re.compile(r"[\w$][\w$ .:()-]{0,31}")
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\":]+/)*(?=[^\s/'\":])")
_TYPES = frozenset({"int", "float", "str", "bool", "AtomRange"})
