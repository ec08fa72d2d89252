"""The OpenAPI description: schemas with the limits in force, formats in and out, errors."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from enflow.service.api.uploads import FILES
from enflow.service.media_types import JSON, MULTIPART, SSE
from enflow.service.model_card import ModelCard
from enflow.service.problems import MEDIA_TYPE
from enflow.service.schemas import examples
from enflow.service.schemas.requests import (
    ANY_MODEL,
    InterpolateRequest,
    LikelihoodRequest,
    SampleRequest,
    VariationsRequest,
)
from enflow.service.schemas.responses import (
    HealthOut,
    LikelihoodResponse,
    LimitsOut,
    ModelsOut,
    ProblemOut,
    SampleResponse,
    WalkResponse,
)
from enflow.service.settings import RequestLimits

REQUESTS: Sequence[type[BaseModel]] = (
    SampleRequest,
    LikelihoodRequest,
    InterpolateRequest,
    VariationsRequest,
)
ANSWERS: Sequence[type[BaseModel]] = (
    SampleResponse,
    WalkResponse,
    LikelihoodResponse,
    HealthOut,
    LimitsOut,
    ModelsOut,
    ProblemOut,
)

OVERVIEW = """\
Generates and scores 3D molecules with an E(n) equivariant normalizing flow. Positions are in angstrom, likelihoods in
nats. `(seed, index)`, the weights and the tolerance fix a molecule: alone or in company, today or tomorrow.

The format of an answer follows `Accept`. `application/x-ndjson` and `text/event-stream` tell what happens as it does:
`start`, `progress` (the queue, and how far each molecule is), `frame`, `molecule` or `score`, and at the end `done` or
`error`. A structure can be sent as JSON, as the file itself (options in the query), or as a form with parts named
`file`. `chemical/x-mdl-sdfile; version=V3000` asks for V3000.

Every error is `application/problem+json` (RFC 9457). Close the connection to cancel.
"""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}}
    for status, text in (("4XX", "The request cannot be carried out"), ("5XX", "The service cannot carry it out"))
}


EVENTS = ["start", "progress", "frame", "molecule", "score", "done", "error"]
EVENT: dict[str, Any] = {
    "type": "object",
    "description": "one event; its data is JSON, and a line of application/x-ndjson is that alone",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": EVENTS},
        "data": {"type": "string", "contentMediaType": JSON},
    },
}


def takes(schema: type[BaseModel], options: type[BaseModel] | None = None) -> dict[str, Any]:
    """The description of a request body: JSON by a schema; with `options`, a file or a form as well."""
    content: dict[str, Any] = {JSON: {"schema": _reference(schema)}}
    found: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    if options:
        properties = options.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
        found["parameters"] = [_parameter(name, each) for name, each in properties.items()]
        two = schema is InterpolateRequest
        content |= {kind: {"schema": {"type": "string"}, "example": examples.FILES[kind][two]} for kind in FILES}
        files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
        fields = {"type": "object", "required": ["file"], "properties": {"file": files, **properties}}
        content[MULTIPART] = {"schema": {**fields, "additionalProperties": False}}
    return found


def gives(schema: type[BaseModel], formats: Sequence[str] = (JSON,)) -> dict[int | str, dict[str, Any]]:
    """The description of the answers: 200 in each format, and the errors."""
    content: dict[str, Any] = {media_type: {"schema": {"type": "string"}} for media_type in formats}
    if SSE in content:
        content[SSE] = {"schema": EVENT}
    content[JSON] = {"schema": _reference(schema)}
    return {200: {"description": "Done", "content": content}, **ERRORS}


def complete(document: dict[str, Any], limits: RequestLimits, cards: Sequence[ModelCard]) -> dict[str, Any]:
    """The framework's description with our schemas, and in them the limits in force and the models loaded.

    No example asks for a model that is not there.
    """
    inputs = models_json_schema(
        [(each, "validation") for each in REQUESTS], ref_template="#/components/schemas/{model}"
    )[1]["$defs"]
    outputs = models_json_schema(
        [(each, "serialization") for each in ANSWERS], ref_template="#/components/schemas/{model}"
    )[1]["$defs"]
    names, asking = [card.name for card in cards], inputs["SampleRequest"]
    formulas = any(card.takes_formulas for card in cards)
    asking["examples"] = [
        each
        for each in asking["examples"]
        if (formulas or "formula" not in each) and each.get("model", names[0]) in names
    ]
    found = {**document, "components": {"schemas": {**outputs, **inputs}}}
    bounded: dict[str, Any] = _filled(found, limits, names)
    return bounded


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An option beside a body that is a file; a query knows no null and no default but to be left out."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    plain = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "description", "title")}
    said = f"beside a file: {schema.get('description', name)}"
    shape = {**plain, **(kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})}
    return {"name": name, "in": "query", "required": False, "description": said, "schema": shape}


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}


_BOUND = {"integer": "maximum", "number": "maximum", "array": "maxItems", "string": "maxLength"}


def _filled(node: Any, limits: RequestLimits, models: Sequence[str]) -> Any:
    if isinstance(node, list):
        return [_filled(each, limits, models) for each in node]
    if not isinstance(node, dict):
        return node
    marks = ("x-limit", ANY_MODEL)
    found = {key: _filled(value, limits, models) for key, value in node.items() if key not in marks}
    if isinstance(node.get("x-limit"), str):
        found[_BOUND[node["type"]]] = getattr(limits, node["x-limit"])
    if node.get(ANY_MODEL) is True:
        found = {"type": "string", "enum": list(models)}
    return found
