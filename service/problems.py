"""Every error the service answers with: one table, and its rendering as problem+json (RFC 9457)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from enflow.model.errors import EnflowError, StructureError, VocabularyError

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 20
"""Errors listed in one problem: a body of a million wrong items is not worth a million lines."""


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem: its name in `type`, its HTTP status and its title."""

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
    """One error and where it is: a JSON pointer, or a place in a file."""

    at: str
    message: str


@dataclass
class Problem(Exception):  # noqa: N818 - the name of the standard
    """A problem to answer with; raise it anywhere below the application."""

    name: str
    detail: str
    errors: Sequence[At] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"

    @property
    def kind(self) -> ProblemType:
        """Its row of the table."""
        return KINDS[self.name]

    def document(self, request_id: str) -> dict[str, Any]:
        """The problem as RFC 9457 writes it."""
        return {
            "type": f"urn:enflow:problem:{self.kind.name}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": f"urn:enflow:request:{request_id}",
            "errors": [{"at": error.at, "message": error.message} for error in self.errors[:MOST_ERRORS]],
        }

    def body(self, request_id: str) -> bytes:
        """The document as JSON."""
        return json.dumps(self.document(request_id), ensure_ascii=False).encode()


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to come back: whole seconds, at least one."""
    return {"Retry-After": str(max(1, min(3600, round(seconds + 0.5))))}


def from_status(status: int) -> Problem:
    """The problem for an error that the framework raised, without the framework's words."""
    kind = BY_STATUS.get(status, KINDS["internal" if status >= 500 else "malformed"])
    details = {
        404: "no such path; GET /docs lists what there is",
        405: "this path exists, but not for this method; GET /docs lists what there is",
    }
    return Problem(kind.name, details.get(kind.status, kind.title.lower()))


def from_structure(error: EnflowError) -> Problem:
    """The problem of a structure that cannot be read or used: its message names place, found and expected."""
    message = error.message if isinstance(error, StructureError) else str(error)
    return Problem("invalid", str(error), [At(_place(error), message)])


def from_exception(error: Exception) -> Problem:
    """The problem that an exception means; whatever was not foreseen is a defect and tells nothing of itself."""
    match error:
        case Problem():
            return error
        case ValidationError():
            return from_validation(error)
        case StructureError() | VocabularyError():
            return from_structure(error)
        case _:
            return Problem("internal", "the service failed on this request; its log has the place, by request id")


def from_validation(error: ValidationError) -> Problem:
    """The problem of a body that does not fit its schema, without a word of the body itself."""
    found = error.errors(include_input=False, include_context=False, include_url=False)
    if any(each["type"] == "json_invalid" for each in found):
        return Problem("malformed", "the body is not JSON", [At("", each["msg"]) for each in found])
    unique = dict.fromkeys(At(*_explained(each["type"], each["loc"], each["msg"])) for each in found)
    return Problem("invalid", "the request does not fit its description (GET /docs)", list(unique))


def _explained(kind: str, place: tuple[int | str, ...], message: str) -> tuple[str, str]:
    if kind == "extra_forbidden":  # the last part is a name the sender made up
        return _pointer(place[:-1]), "found a field that does not exist here"
    return _pointer(place), message.removeprefix("Value error, ")


def _pointer(place: tuple[int | str, ...]) -> str:
    # Pydantic puts the tried member of a union into the place: "list[int]", "int", "constrained-str".
    fields = (part for part in place if isinstance(part, int) or (part.isidentifier() and part not in _TYPES))
    return "".join(f"/{part}" for part in fields)


_TYPES = frozenset({"int", "float", "str", "bool"})


def _place(error: EnflowError) -> str:
    places = {name: getattr(error, name, None) for name in ("index", "line", "column")}
    names = {"index": "structure"}
    return ", ".join(f"{names.get(name, name)} {value}" for name, value in places.items() if value is not None)
