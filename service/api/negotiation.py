"""Which format comes in, which goes out: Content-Type and Accept (RFC 9110, sections 8.3 and 12.5.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from enflow.service.media_types import JSON, MULTIPART, SDF, SMILES, XYZ
from enflow.service.problems import Problem

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RANGE = re.compile(rf"\s*({_WORD})/({_WORD})\s*((?:;[^;]*)*)$")
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$")

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
    """One member of an Accept header, `*` for a wildcard."""

    kind: str
    subtype: str
    parameters: tuple[tuple[str, str], ...]
    quality: float

    def matches(self, media_type: str) -> bool:
        """Whether it takes this media type."""
        kind, subtype = media_type.split("/")
        return self.kind in ("*", kind) and self.subtype in ("*", subtype)

    @property
    def specificity(self) -> tuple[bool, bool, int]:
        """Larger = says more: type/subtype;parameters over type/subtype over type/* over */*."""
        return self.kind != "*", self.subtype != "*", len(self.parameters)


def parse_accept(header: str) -> list[MediaRange]:
    """The members of an Accept header; a member that is no media range counts for nothing."""
    return [found for member in header.split(",") if (found := _parse_range(member))]


def negotiate(header: str | None, offers: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The offer that an Accept header likes best, with the parameters it asked for; the first where it is indifferent.

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


def input_format(content_type: str | None, takes: Sequence[str]) -> str | None:
    """The format that a Content-Type declares; None where it declares nothing and the contents must tell.

    JSON is never guessed: a foreign page can send text/plain, but not application/json, without asking first.

    Raises:
        Problem: unsupported-media-type.
    """
    declared = (content_type or "").split(";")[0].strip().lower()
    found = _INPUT_NAMES.get(declared)
    if found in takes or (declared in _UNDECLARED and takes != [JSON]):
        return found
    raise unsupported(takes)


def unsupported(takes: Sequence[str]) -> Problem:
    """The problem of a body in another format than these."""
    return Problem("unsupported-media-type", f"expected a Content-Type of {', '.join(takes)}")


def _parse_range(member: str) -> MediaRange | None:
    found = _RANGE.match(member)
    if not found:
        return None
    kind, subtype, tail = found[1].lower(), found[2].lower(), found[3]
    pairs = [part.partition("=") for part in tail.split(";")[1:]]
    parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs if name.strip()}
    quality = parameters.pop("q", "1")
    if not _QUALITY.match(quality) or (kind == "*" and subtype != "*"):
        return None
    return MediaRange(kind, subtype, tuple(parameters.items()), float(quality))
