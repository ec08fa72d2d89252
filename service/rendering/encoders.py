"""An answer in the format that its caller accepts."""

import asyncio
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from enflow.service.chemistry.rdkit_pool import RDKitPool, WrittenForm
from enflow.service.media_types import HTML, JSON, NDJSON, SDF, SSE, XYZ, ZIP
from enflow.service.rendering.answer import Answer

SCORE_FORMATS = (JSON, NDJSON, SSE)
"""What answers that are scores can be."""

FILE_NAMES: Mapping[str, str] = {
    XYZ: "molecules.xyz",
    SDF: "molecules.sdf",
    HTML: "molecules.html",
    ZIP: "molecules.zip",
}


async def encode_answer(
    answer: Answer, media_type: str, parameters: Mapping[str, str], chemistry: RDKitPool, formats: Sequence[str]
) -> bytes:
    """The body of an answer; `parameters` of the media type may ask for `version=V3000` of SDF."""
    match media_type:
        case "chemical/x-xyz":
            return _xyz(answer).encode()
        case "chemical/x-mdl-sdfile":
            v3000 = parameters.get("version", "").upper() == "V3000"
            return await _written(answer, "sdf-v3000" if v3000 else "sdf", chemistry)
        case "text/html":
            return await _written(answer, "html", chemistry)
        case "application/zip":
            parts = {"molecules.xyz": _xyz(answer).encode(), "answer.json": await _json(answer.document)}
            if SDF in formats:
                parts = {"molecules.sdf": await _written(answer, "sdf", chemistry), **parts}
            return await asyncio.to_thread(_zip, parts)
        case _:
            return await _json(answer.document)


def dumps(document: Any) -> bytes:
    """JSON; a NaN in it is a defect and no silent null."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _xyz(answer: Answer) -> str:
    return "".join(each.fields["xyz"] for each in answer.portraits)


async def _written(answer: Answer, form: WrittenForm, chemistry: RDKitPool) -> bytes:
    molecules = [each.molecule for each in answer.portraits]
    return (await chemistry.write(molecules, [each.bonds for each in answer.portraits], form)).encode()


async def _json(document: Mapping[str, Any]) -> bytes:
    """As `dumps`, an item at a time: thousands of frames take a second, in which nobody else would be answered."""
    members = []
    for key, value in document.items():
        whole = await _array(value) if isinstance(value, list) else dumps(value)
        members.append(dumps(key) + b": " + whole)
    return b"{" + b", ".join(members) + b"}"


async def _array(items: Sequence[Any]) -> bytes:
    written = []
    for item in items:
        written.append(dumps(item))
        await asyncio.sleep(0)
    return b"[" + b", ".join(written) + b"]"


def _zip(parts: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)
    return packed.getvalue()
