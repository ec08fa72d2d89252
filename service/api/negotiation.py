"""Negotiation of formats by Content-Type and Accept (RFC 9110, sections 8.3 and 12.5.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

from enflow.service.media_types import JSON, MULTIPART, SDF, SMILES, XYZ
from enflow.service.problems import Problem

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RANGE = re.compile(rf"\s*({_WORD})/({_WORD})\s*((?:;[^;]*)*)$")
_ANYTHING = re.compile(r"^\s*\*\s*(?=;|$)")
_QUALITY = re.compile(r"\d+\.?\d{0,20}|\.\d{1,20}")

_INPUT_NAMES = {
    JSON: JSON,
    XYZ: XYZ,
    SDF: SDF,
    "chemical/x-mdl-molfile": SDF,
    "chemical/x-extxyz": XYZ,
    SMILES: SMILES,
    MULTIPART: MULTIPART,
}
_UNDECLARED = frozenset({"", "application/octet-stream", "text/plain"})


@dataclass(frozen=True)
class MediaRange:
    """A member of an Accept header; `*` is a wildcard."""

    kind: str
    subtype: str
    parameters: tuple[tuple[str, str], ...]
    quality: float

    def matches(self, media_type: str) -> bool:
        """Return True where the range includes a media type."""
        kind, subtype = media_type.split("/")
        return self.kind in ("*", kind) and self.subtype in ("*", subtype)

    @property
    def specificity(self) -> tuple[bool, bool, int]:
        """The rank among ranges that match: type/subtype;parameters over type/subtype over type/* over */*."""
        return self.kind != "*", self.subtype != "*", len(self.parameters)


@dataclass(frozen=True)
class Negotiation:
    """A FastAPI dependency: the Accept header of a request, refused before the body is read where no offer fits."""

    offers: Sequence[str]

    async def __call__(self, accept: Annotated[list[str] | None, Header(include_in_schema=False)] = None) -> str | None:
        """Return all Accept lines as one list.

        Raises:
            Problem: not-acceptable.
        """
        header = None if accept is None else ", ".join(accept)
        negotiate(header, self.offers)
        return header


def parse_accept(header: str) -> list[MediaRange]:
    """Return the members of an Accept header; a member that is no media range is left out."""
    return [found for member in header.split(",") if (found := _parse_range(member))]


def negotiate(header: str | None, offers: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the offer that an Accept header ranks first, with its parameters; among equals the first offer.

    Raises:
        Problem: not-acceptable.
    """
    if header is None or not header.strip():
        return offers[0], {}
    ranges = parse_accept(header)
    best, best_quality, parameters = "", 0.0, {}
    for offer in offers:
        most_specific = max((r for r in ranges if r.matches(offer)), key=lambda r: r.specificity, default=None)
        if most_specific and most_specific.quality > best_quality:
            best, best_quality, parameters = offer, most_specific.quality, dict(most_specific.parameters)
    if not best:
        raise Problem("not-acceptable", f"expected an Accept header that takes one of {', '.join(offers)}")
    return best, parameters


def input_format(content_type: str | None, formats: Sequence[str]) -> str | None:
    """Return the one of `formats` that a Content-Type declares; None where the content must show the format.

    JSON is never guessed: a foreign page can send text/plain without a preflight request, but not application/json.

    Raises:
        Problem: unsupported-media-type.
    """
    declared = (content_type or "").split(";")[0].strip().lower()
    found = _INPUT_NAMES.get(declared)
    if found in formats or (declared in _UNDECLARED and formats != [JSON]):
        return found
    raise unsupported(formats)


def unsupported(formats: Sequence[str]) -> Problem:
    """Return the problem of a body whose format is none of `formats`."""
    return Problem("unsupported-media-type", f"expected a Content-Type of {', '.join(formats)}")


def _parse_range(member: str) -> MediaRange | None:
    found = _RANGE.match(_ANYTHING.sub("*/*", member, count=1))
    if not found:
        return None
    kind, subtype, tail = found[1].lower(), found[2].lower(), found[3]
    pairs = [part.partition("=") for part in tail.split(";")[1:]]
    parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs if name.strip()}
    quality = parameters.pop("q", "1")
    if not _QUALITY.fullmatch(quality) or float(quality) > 1 or (kind == "*" and subtype != "*"):
        return None
    return MediaRange(kind, subtype, tuple(parameters.items()), float(quality))
