"""Hooks of schemathesis for this service: serializers of its media types, and a check of every error."""

import random
from typing import Any

import httpx
import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

ACCEPTS = ["*/*", "application/json", "chemical/x-xyz", "chemical/x-mdl-sdfile", "application/x-ndjson"]
ACCEPTS += ["text/event-stream", "text/html", "application/zip", "image/png", "application/json;q=0, text/*;q=0.5"]

LARGE_JOB = 20
"""Molecules above which a job is cancelled."""


@schemathesis.serializer("chemical/x-xyz", "chemical/x-mdl-sdfile", "chemical/x-daylight-smiles")
def as_text(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(context: Any, case: Any, **_: Any) -> None:
    """Send options in the query beside a file, else in the body, and ask for every format."""
    if case.media_type in ("application/json", "multipart/form-data"):
        case.query = {}
    if case.method == "POST":
        chosen = random.Random(repr(case.body)).choice(ACCEPTS)
        case.headers = {**(case.headers or {}), "Accept": chosen}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Cancel a large job: thousands of molecules would take the processor from all later requests."""
    if case.method == "POST" and response.status_code == 202 and (job := response.json())["n_molecules"] > LARGE_JOB:
        httpx.delete(f"{response.request.url}/{job['id']}", timeout=60).raise_for_status()


@schemathesis.check
def wrong_json_is_refused(ctx: Any, response: Any, case: Any) -> None:
    """Check that invalid JSON is refused; any text is a valid file, whose structures then have errors."""
    if case.media_type in (None, "application/json"):
        negative_data_rejection(ctx, response, case)


@schemathesis.check
def errors_are_problems(ctx: Any, response: Any, case: Any) -> None:
    if response.status_code >= 400 and case.method != "HEAD":
        assert response.headers["content-type"] == ["application/problem+json"]
        assert response.json()["status"] == response.status_code
        if response.status_code in (429, 503):
            assert 1 <= int(response.headers["retry-after"][0]) <= 3600
        assert len(response.content) < 5000, "an error that grows with its cause echoes it"
