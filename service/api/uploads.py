"""Request bodies: JSON by its schema, and structures as JSON, as the file itself, or as a form with files."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Receive

from enflow.model.chem.io.formats import FileFormat, recognized, sniff
from enflow.service.chemistry.rdkit_pool import Upload
from enflow.service.media_types import JSON, MULTIPART, SDF, SMILES, XYZ
from enflow.service.problems import Problem, from_validation
from enflow.service.schemas.requests import RequestOptions, StructureText
from enflow.service.settings import RequestLimits

M = TypeVar("M", bound=BaseModel)
W = TypeVar("W", bound=RequestOptions)

FILES: Mapping[str, FileFormat] = {XYZ: "xyz", SDF: "sdf", SMILES: "smiles3d"}
"""The format of a body that is a file, by its Content-Type."""

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

FORMATS = [JSON, *FILES, MULTIPART]
"""The content types of structures."""

_MAX_FIELDS = 20


@dataclass(frozen=True)
class StructureRequest(Generic[W]):
    """The options of a request and its files, not parsed yet.

    Attributes:
        options: the options from the query, the form or the JSON body.
        uploads: the files in their order.
        whole: True where the body is one file; a file that cannot be read is then an error of the request.
    """

    options: W
    uploads: Sequence[Upload]
    whole: bool = False


async def read_json(request: Request, schema: type[M], limits: RequestLimits) -> M:
    """Read a JSON body, strictly by its schema.

    Raises:
        Problem: unsupported-media-type, malformed or invalid.
    """
    _check_not_encoded(request)
    input_format(request.headers.get("content-type"), [JSON])
    return await _parse_json(request, schema, limits)


async def read_structures(request: Request, schema: type[W], query: W, limits: RequestLimits) -> StructureRequest[W]:
    """Read the body of a request with structures, within the deadline that its query names.

    Args:
        request: the request, whose body has not been read.
        schema: the schema of a JSON body, with a field `structures`.
        query: the options in the query, for a file or a form.
        limits: the limits in force.

    Raises:
        Problem: unsupported-media-type, malformed, invalid, or deadline.
        ClientDisconnect: the client closed the connection.
    """
    _check_not_encoded(request)
    found = input_format(request.headers.get("content-type"), FORMATS)
    check_query(request)
    options = _validate(type(query), query.model_dump(exclude_unset=True), limits)
    with _as_problem():
        async with asyncio.timeout(_time_left(request, options, limits)):
            if found == JSON:
                parsed = await _parse_json(request, schema, limits)
                texts: list[StructureText] = parsed.structures  # type: ignore[attr-defined]
                return StructureRequest(parsed, [Upload(each.format, each.data.encode()) for each in texts])
            if found == MULTIPART:
                return await _read_form(request, options, limits)
            return StructureRequest(options, [_upload_of(await request.body(), found)], whole=True)


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


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed the connection; the body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_not_encoded(request: Request) -> None:
    """Refuse a compressed body: it may unpack to a thousand times its size, and structures are small without."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        detail = "found a Content-Encoding, expected the body without one"
        raise Problem("unsupported-media-type", detail, headers={"Accept-Encoding": "identity"})


def check_query(request: Request) -> None:
    """Refuse an option that stands twice in the query: one of both would be ignored."""
    if len(request.query_params) < len(request.query_params.multi_items()):
        raise Problem("invalid", "found an option twice in the query, expected it once")


@contextmanager
def _as_problem() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise from_validation(error) from None
    except TimeoutError:
        raise Problem("deadline", "the deadline passed before the body had been read") from None


def _time_left(request: Request, options: RequestOptions, limits: RequestLimits) -> float:
    arrived: float = request.state.arrived
    return max(0.0, arrived + (options.deadline_s or limits.max_deadline_s) - time.time())


def _validate(schema: type[M], values: Mapping[str, Any], limits: RequestLimits) -> M:
    with _as_problem():
        return schema.model_validate(values, context=limits)


async def _parse_json(request: Request, schema: type[M], limits: RequestLimits) -> M:
    if request.query_params:
        raise Problem("invalid", "found a query beside a JSON body, expected all options in the body")
    body = (await request.body()).removeprefix(b"\xef\xbb\xbf")
    _check_values(body, limits.max_values)
    with _as_problem():
        return schema.model_validate_json(body, strict=True, context=limits)


def _check_values(body: bytes, limit: int) -> None:
    """Refuse JSON with too many values before it is parsed: each of them would become an object, or an error.

    Every value but the first of its array or object follows a comma. A text contains its commas in double quotes, so
    they are looked for only where the whole body has more commas than values are allowed.
    """
    if body.count(b",") < limit:
        return
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * limit or b"".join(body.split(b'"')[::2]).count(b",") >= limit:  # a name and a text: 4
        raise Problem("too-large", f"found more values in the JSON body than the limit max_values of {limit}")


def _upload_of(body: bytes, declared: str | None) -> Upload:
    form = FILES[declared] if declared else sniff(body)
    if form is None:
        raise unsupported(FORMATS)
    return Upload(form, body)


async def _read_form(request: Request, query: W, limits: RequestLimits) -> StructureRequest[W]:
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=limits.max_records,
        max_fields=_MAX_FIELDS,
        max_part_size=limits.max_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeDecodeError):
        raise Problem("malformed", "the body is not multipart/form-data as its Content-Type says") from None
    try:
        options = _form_options(form, query, limits)
        return StructureRequest(options, [await _form_upload(part) for part in form.getlist("file")])
    finally:
        await form.close()


def _form_options(form: FormData, query: W, limits: RequestLimits) -> W:
    fields = [(name, value) for name, value in form.multi_items() if name != "file"]
    options, given = dict(fields), query.model_dump(exclude_unset=True)
    if "file" not in form or any(isinstance(value, UploadFile) for value in options.values()):
        raise Problem("invalid", "expected the structures as parts named `file`, options as plain fields")
    if len(options) < len(fields):
        raise Problem("invalid", "found a field twice in the form, expected it once")
    if twice := options.keys() & given.keys():
        raise Problem("invalid", f"found {', '.join(sorted(twice))} in the query and in the form, expected it once")
    return _validate(type(query), given | options, limits)


async def _form_upload(part: UploadFile | str) -> Upload:
    """Return a part of a form as an upload; a part without a file name is text whose format is detected."""
    if isinstance(part, str):
        return Upload(None, part.encode())
    declared = (part.content_type or "").split(";")[0].strip().lower()
    content = await part.read()
    return Upload(FILES.get(declared) or recognized(content, part.filename or ""), content, part.filename)
