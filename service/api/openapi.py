"""The parts of the OpenAPI description that FastAPI cannot derive from the routes.

FastAPI knows paths, options, response models and security schemes. Here are: bodies in several media types, responses
in several media types, an example of each, and the limits and models of the running service.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from enflow.service.api.uploads import FILES
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import CSV, HTML, JSON, MULTIPART, NDJSON, SDF, SSE, XYZ, ZIP
from enflow.service.model_card import ModelCard
from enflow.service.problems import MEDIA_TYPE
from enflow.service.rendering.encoders import SCORE_FORMATS
from enflow.service.rendering.job_results import MOLECULE_FORMATS
from enflow.service.schemas import examples
from enflow.service.schemas.jobs import JobRequest
from enflow.service.schemas.requests import (
    ANY_MODEL,
    InterpolateRequest,
    LikelihoodRequest,
    SampleRequest,
    VariationsRequest,
)
from enflow.service.settings import RequestLimits

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """\
Generates and scores 3D molecules with an E(n) equivariant normalizing flow. Positions are in angstrom, likelihoods in
nats. `(seed, index)`, the weights, the tolerance, the refinements and the temperature fix a molecule, whatever else is
computed beside it.

The format of a response follows `Accept`. `application/x-ndjson` and `text/event-stream` send events while the service
computes: `start`, `progress` (the queue, and the time t of each molecule), `frame`, `molecule` or `score`, and at the
end `done` or `error`. A structure can be sent as JSON, as the file itself (options in the query), or as a form with
parts named `file`. `chemical/x-mdl-sdfile; version=V3000` asks for V3000.

Every error is `application/problem+json` (RFC 9457). Close the connection to cancel a request.
"""

TAGS = [
    {"name": "molecules", "description": "Generate molecules, or samples of a particle system."},
    {"name": "structures", "description": "Score structures, or walk through the latent space around them."},
    {"name": "jobs", "description": "Batches of up to a million molecules, which go on after a restart."},
    {"name": "service", "description": "Models, limits and health of the service."},
]

PROBLEMS: Responses = {
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}}
    for status, text in (("4XX", "The request cannot be carried out"), ("5XX", "The service cannot carry it out"))
}

_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "An event; its data is JSON, and a line of application/x-ndjson is that JSON alone",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["start", "progress", "frame", "molecule", "score", "done", "error"]},
        "data": {"type": "string", "contentMediaType": JSON},
    },
}

_FILE_EXAMPLES: Mapping[str, Mapping[str, str]] = {
    XYZ: {"example": examples.METHANE},
    SDF: {"example": examples.WATER_SDF},
    NDJSON: {"example": examples.EVENT_LINE},
    HTML: {"example": "<!doctype html>"},
    CSV: {"example": "formula,n_atoms,smiles,valid\r\nH2O,3,O,True\r\n"},
    ZIP: {},
}


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the description of a body that is JSON."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": _reference(schema)}}}}


def structures_body(schema: type[BaseModel], options: type[BaseModel]) -> dict[str, Any]:
    """Return the description of a body that is JSON, a file, or a form with files and options."""
    body = json_body(schema)
    two = schema is InterpolateRequest
    files = {kind: {"schema": {"type": "string"}, "example": examples.FILES[kind][two]} for kind in FILES}
    properties = options.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    parts = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["file"], "properties": {"file": parts, **properties}}
    body["requestBody"]["content"] |= {**files, MULTIPART: {"schema": {**form, "additionalProperties": False}}}
    return body


def _media_types(formats: Sequence[str]) -> Responses:
    """Return the description of a success answer in several formats; FastAPI adds the schema of its JSON."""
    content: dict[str, Any] = {each: {"schema": {"type": "string"}, **_FILE_EXAMPLES.get(each, {})} for each in formats}
    content[JSON] = {}
    if SSE in formats:
        content[SSE] = {"schema": _EVENT, "example": examples.EVENT}
    return {200: {"description": "Done", "content": content}}


MOLECULES = _media_types(ServedModel.formats)
JOB_RESULTS = _media_types(MOLECULE_FORMATS)
SCORES = _media_types(SCORE_FORMATS)


def complete(
    document: dict[str, Any], limits: RequestLimits, cards: Sequence[ModelCard], keys_needed: bool
) -> dict[str, Any]:
    """Return FastAPI's description with the request schemas, the limits in force, and the names of the models.

    Args:
        document: the description that FastAPI derived from the routes.
        limits: the limits in force.
        cards: the cards of the loaded models; examples that ask for another model are left out.
        keys_needed: True where a request needs an API key; else the security schemes are optional.
    """
    requests = (SampleRequest, LikelihoodRequest, InterpolateRequest, VariationsRequest, JobRequest)
    schemas = models_json_schema(
        [(each, "validation") for each in requests], ref_template="#/components/schemas/{model}"
    )
    document["components"]["schemas"] |= schemas[1]["$defs"]
    bodies = document["components"]["schemas"]["JobRequest"]["properties"]
    for body in bodies.values():
        reference = body["anyOf"][0]["$ref"]
        body["anyOf"][0] = _without_counts(schemas[1]["$defs"][reference.rpartition("/")[2]])
    sample = document["components"]["schemas"]["SampleRequest"]
    sample["examples"] = [each for each in sample["examples"] if _can_run(each, cards)]
    for operation in (each for path in document["paths"].values() for each in path.values()):
        # Not with the route: FastAPI removes every null from a description, and an example may need one.
        success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        if JSON in success["content"]:
            success["content"][JSON]["example"] = examples.RESPONSES[operation["operationId"]]
        operation["parameters"] = [_without_default(each) for each in operation.get("parameters", [])]
        if not keys_needed and "security" in operation:
            operation["security"].append({})
    completed: dict[str, Any] = _fill(document, limits, [card.name for card in cards])
    return completed


def _can_run(example: Mapping[str, Any], cards: Sequence[ModelCard]) -> bool:
    named = example.get("model", cards[0].name) in [card.name for card in cards]
    needs_formulas, needs_fragments = "formula" in example, "fragment" in example
    return (
        named
        and (not needs_formulas or any(card.takes_formulas for card in cards))
        and (not needs_fragments or any(card.takes_fragments for card in cards))
    )


def _without_default(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter without its default and without null; clients would send both beside a JSON body."""
    schema = {key: value for key, value in parameter["schema"].items() if key not in ("default", "anyOf")}
    kinds = [each for each in parameter["schema"].get("anyOf", ()) if each != {"type": "null"}]
    schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    return {**parameter, "schema": schema}


def _without_counts(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a request as the body of a job, which may ask for more molecules and structures."""

    def copied(node: Any) -> Any:
        if isinstance(node, list):
            return [copied(each) for each in node]
        if not isinstance(node, dict):
            return node
        counts = node.get("x-limit") in ("max_molecules", "max_records")
        return {key: copied(value) for key, value in node.items() if not (counts and key == "x-limit")}

    return {**copied(schema), "title": f"Job{schema['title']}"}


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}


_BOUND = {"integer": "maximum", "number": "maximum", "array": "maxItems", "string": "maxLength"}


def _fill(node: Any, limits: RequestLimits, models: Sequence[str]) -> Any:
    """Replace every `x-limit` by the bound in force, and every mark of a model name by the names of the models."""
    if isinstance(node, list):
        return [_fill(each, limits, models) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _fill(value, limits, models) for key, value in node.items() if key not in ("x-limit", ANY_MODEL)}
    if isinstance(node.get("x-limit"), str):
        found[_BOUND[node["type"]]] = getattr(limits, node["x-limit"])
    if node.get(ANY_MODEL) is True:
        found = {"type": "string", "enum": list(models)}
    return found
