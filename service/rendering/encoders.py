"""A whole answer in the media type that its caller accepts (Accept: RFC 9110, section 12.5.1)."""

import asyncio
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.csv_table import write_csv
from enflow.model.chem.molecule import Molecule
from enflow.service.chemistry.rdkit_pool import RDKitPool, WrittenForm
from enflow.service.media_types import CSV, HTML, JSON, NDJSON, SDF, SSE, XYZ, ZIP
from enflow.service.problems import Problem
from enflow.service.rendering.molecules import Document, RenderedMolecule
from enflow.service.schemas.responses import LikelihoodResponse, SampleResponse, WalkResponse

SCORE_FORMATS = (JSON, NDJSON, SSE)
"""The media types of responses that hold scores."""

FILE_NAMES: Mapping[str, str] = {
    XYZ: "molecules.xyz",
    SDF: "molecules.sdf",
    HTML: "molecules.html",
    CSV: "molecules.csv",
    ZIP: "molecules.zip",
}

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RANGE = re.compile(rf"\s*({_WORD})/({_WORD})\s*((?:;[^;]*)*)$")
_ANYTHING = re.compile(r"^\s*\*\s*(?=;|$)")
_QUALITY = re.compile(r"\d+\.?\d{0,20}|\.\d{1,20}")


@dataclass(frozen=True)
class Answer:
    """A whole answer: its JSON document, and its molecules for the formats that are files of molecules."""

    document: SampleResponse | WalkResponse | LikelihoodResponse
    molecules: Sequence[RenderedMolecule[Document]]


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


def parse_accept(header: str) -> list[MediaRange]:
    """Return the members of an Accept header; a member that is no media range is left out."""
    return [found for member in header.split(",") if (found := _parse_range(member))]


def negotiate(header: str | None, offers: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the offer that an Accept header ranks first, with its parameters; among equals the first offer.

    Raises:
        Problem: not-acceptable.
    """
    if header is None or not header.strip(" \t,"):  # an empty list says nothing (RFC 9110, section 5.6.1)
        return offers[0], {}
    ranges = parse_accept(header)
    best, best_quality, parameters = "", 0.0, {}
    for offer in offers:
        most_specific = max((r for r in ranges if r.matches(offer)), key=lambda r: r.specificity, default=None)
        if most_specific and most_specific.quality > best_quality:
            best, best_quality, parameters = offer, most_specific.quality, dict(most_specific.parameters)
    if not best:
        raise Problem("not-acceptable", f"found Accept: {header[:100]}, expected one of {', '.join(offers)}")
    return best, parameters


async def encode_answer(
    answer: Answer, media_type: str, parameters: Mapping[str, str], chemistry: RDKitPool, formats: Sequence[str]
) -> bytes:
    """Return the body of an answer.

    Args:
        answer: the document and the molecules.
        media_type: the format of the body.
        parameters: parameters of the media type; `version=V3000` is one of SDF.
        chemistry: writes HTML and V3000.
        formats: the media types that the model can produce; a ZIP holds an SDF where they include it.
    """
    match media_type:
        case "chemical/x-xyz":
            return _xyz(answer).encode()
        case "chemical/x-mdl-sdfile":
            v3000 = parameters.get("version", "").upper() == "V3000"
            return await (_written(answer, "sdf-v3000", chemistry) if v3000 else _sdf(answer, chemistry))
        case "text/html":
            return await _written(answer, "html", chemistry)
        case "text/csv":
            return (await asyncio.to_thread(write_csv, *_molecules(answer))).encode()
        case "application/zip":
            files = {"molecules.xyz": _xyz(answer).encode(), "answer.json": await _json(answer.document)}
            if SDF in formats:
                files = {"molecules.sdf": await _sdf(answer, chemistry), **files}
            return await asyncio.to_thread(zip_files, files)
        case _:
            return await _json(answer.document)


def _xyz(answer: Answer) -> str:
    return "".join(each.document.xyz for each in answer.molecules)


async def _sdf(answer: Answer, chemistry: RDKitPool) -> bytes:
    records = [each.sdf for each in answer.molecules if each.sdf is not None]
    return (
        "".join(records).encode() if len(records) == len(answer.molecules) else await _written(answer, "sdf", chemistry)
    )


async def _written(answer: Answer, form: WrittenForm, chemistry: RDKitPool) -> bytes:
    return (await chemistry.write(*_molecules(answer), form)).encode()


def _molecules(answer: Answer) -> tuple[list[Molecule], list[Bonds]]:
    return [each.molecule for each in answer.molecules], [each.bonds for each in answer.molecules]


async def _json(document: SampleResponse | WalkResponse | LikelihoodResponse) -> bytes:
    """Return the document as JSON.

    The items are encoded one at a time: thousands of frames take a second, during which no other request would be
    answered.
    """
    name = "results" if isinstance(document, LikelihoodResponse) else "molecules"
    items = []
    for item in getattr(document, name):
        items.append(item.model_dump_json(exclude_unset=True))
        await asyncio.sleep(0)
    empty = document.model_copy(update={name: []}).model_dump_json(exclude_unset=True)
    return empty.replace(f'"{name}":[]', f'"{name}":[{",".join(items)}]', 1).encode()


def zip_files(files: Mapping[str, bytes]) -> bytes:
    """Return files as a ZIP archive that depends on nothing else."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)
    return packed.getvalue()


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


def format_headers(media_type: str) -> dict[str, str]:
    """Return the headers of an answer in a format: no cache keeps it, and a browser saves molecules as a file."""
    text = "" if media_type.startswith("application/") else "; charset=utf-8"
    headers = {"Vary": "Accept", "Cache-Control": "no-store", "Content-Type": media_type + text}
    if media_type in FILE_NAMES:
        headers["Content-Disposition"] = f'attachment; filename="{FILE_NAMES[media_type]}"'
    return headers
