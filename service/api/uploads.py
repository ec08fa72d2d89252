"""What comes in: JSON by its schema, structures as JSON, as the file itself, or as a form with files."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Generic, TypeVar

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from enflow.model.chem.io.formats import sniff
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError, StructureError, VocabularyError
from enflow.service.api.negotiation import input_format, unsupported
from enflow.service.chemistry.rdkit_pool import FileFormat
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import JSON, MULTIPART, SDF, SMILES, XYZ
from enflow.service.problems import Problem
from enflow.service.schemas.requests import RequestOptions, StructureText
from enflow.service.settings import RequestLimits

M = TypeVar("M", bound=BaseModel)
W = TypeVar("W", bound=RequestOptions)

FILES: Mapping[str, FileFormat] = {XYZ: "xyz", SDF: "sdf", SMILES: "smiles3d"}
TAKES = [JSON, *FILES, MULTIPART]
"""Content types that structures come in."""
_ENDINGS: Mapping[str, FileFormat] = {
    ".xyz": "xyz",
    ".extxyz": "xyz",
    ".sdf": "sdf",
    ".mol": "sdf",
    ".sd": "sdf",
    ".smi": "smiles3d",
}
_MOST_FIELDS = 20


@dataclass(frozen=True)
class Upload:
    """A file of structures; no format = to be seen from its contents."""

    form: FileFormat | None
    data: bytes


@dataclass(frozen=True)
class ParsedUpload(Generic[W]):
    """The desk of a request, its options, and its structures in order: a molecule, or what is wrong with it."""

    desk: ServedModel
    options: W
    structures: Sequence[Molecule | EnflowError]


async def read_json(request: Request, schema: type[M], limits: RequestLimits) -> M:
    """The JSON body of a request, strictly by its schema.

    Raises:
        Problem: unsupported-media-type, malformed or invalid.
    """
    _check_plain(request)
    input_format(request.headers.get("content-type"), [JSON])
    return _parse_json(request, await request.body(), schema, limits)


async def read_structures(
    request: Request, whole: type[W], options: type[W], reception: ModelRegistry
) -> ParsedUpload[W]:
    """The structures of a request and its options.

    Args:
        whole: schema of a JSON body, with a field `structures`.
        options: schema of what stands beside a file: in the query, or with a form in its fields as well.

    Raises:
        Problem: unsupported-media-type, malformed or invalid.
        StructureError: a body that is a file cannot be read as a whole.
    """
    _check_plain(request)
    limits = reception.limits
    match found := input_format(request.headers.get("content-type"), TAKES):
        case "application/json":
            asked = _parse_json(request, await request.body(), whole, limits)
            texts: list[StructureText] = asked.structures  # type: ignore[attr-defined]
            desk, uploads = reception.named(asked.model), [Upload(each.format, each.data.encode()) for each in texts]
            return ParsedUpload(desk, asked, await _read_each(uploads, desk))
        case "multipart/form-data":
            fields, uploads = await _form(request, limits)
            given = _query(request)
            if twice := fields.keys() & given.keys():
                raise Problem("invalid", f"found {len(twice)} options both in the query and in the form")
            parsed = _parse_strings(given | fields, options, limits)
            desk = reception.named(parsed.model)
            return ParsedUpload(desk, parsed, await _read_each(uploads, desk))
        case _:
            upload = _file(await request.body(), found)
            parsed = _parse_strings(_query(request), options, limits)
            desk = reception.named(parsed.model)
            return ParsedUpload(desk, parsed, _checked(await desk.read(upload.data, upload.form), desk))


def _check_plain(request: Request) -> None:
    """A packed body may be a thousand times its size; structures are small without."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        detail = "found a Content-Encoding, expected the body as it is"
        raise Problem("unsupported-media-type", detail, headers={"Accept-Encoding": "identity"})


def _parse_json(request: Request, body: bytes, schema: type[M], limits: RequestLimits) -> M:
    if request.query_params:
        raise Problem("invalid", "found a query beside a JSON body, expected everything in the body")
    return schema.model_validate_json(body.removeprefix(b"\xef\xbb\xbf"), context=limits)


def _query(request: Request) -> dict[str, str]:
    """The options in the query, each once: of two values one would be ignored in silence."""
    items = request.query_params.multi_items()
    if len(dict(items)) < len(items):
        raise Problem("invalid", "found an option twice in the query")
    return dict(items)


def _parse_strings(fields: Mapping[str, str], schema: type[M], limits: RequestLimits) -> M:
    return schema.model_validate_strings(fields, context=limits)


def _file(body: bytes, declared: str | None) -> Upload:
    form = FILES[declared] if declared else sniff(body)
    if form is None:
        raise unsupported(TAKES)
    return Upload(form, body)


async def _form(request: Request, limits: RequestLimits) -> tuple[dict[str, str], list[Upload]]:
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=limits.max_records,
        max_fields=_MOST_FIELDS,
        max_part_size=limits.max_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeDecodeError):
        raise Problem("malformed", "the body is not multipart/form-data as its Content-Type says") from None
    try:
        plain = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        fields = dict(plain)
        if len(fields) < len(plain):
            raise Problem("invalid", "found a field twice in the form")
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files or any(name != "file" for name, _ in files):
            raise Problem("invalid", "expected the structures as parts named `file`, options as plain fields")
        return fields, [await _uploaded(file) for _, file in files]
    finally:
        await form.close()


async def _uploaded(file: UploadFile) -> Upload:
    ending = PurePath(file.filename or "").suffix.lower()
    declared = (file.content_type or "").split(";")[0].strip().lower()
    return Upload(FILES.get(declared) or _ENDINGS.get(ending), await file.read())


async def _read_each(uploads: Sequence[Upload], desk: ServedModel) -> list[Molecule | EnflowError]:
    read = await asyncio.gather(*(_read_one(upload, desk) for upload in uploads))
    structures = [each for found in read for each in found]
    return _checked(structures, desk)


async def _read_one(upload: Upload, desk: ServedModel) -> Sequence[Molecule | StructureError]:
    try:
        return await desk.read(upload.data, upload.form)
    except StructureError as error:
        return [error]


def _checked(structures: Sequence[Molecule | StructureError], desk: ServedModel) -> list[Molecule | EnflowError]:
    """The same, with an error in the place of every molecule that the model does not know."""
    if len(structures) > desk.limits.max_records:
        raise Problem("invalid", f"found {len(structures)} structures, expected at most {desk.limits.max_records}")
    return [_known(each, desk) for each in structures]


def _known(structure: Molecule | StructureError, desk: ServedModel) -> Molecule | EnflowError:
    try:
        return desk.taken(structure) if isinstance(structure, Molecule) else structure
    except VocabularyError as error:
        return error
