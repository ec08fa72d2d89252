"""The page, its assets, and the interactive documentation.

Every file comes from this service and none from a CDN, so that the page works without a network.
"""

import re
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from enflow.service.problems import Problem

DIST = Path(__file__).resolve().parent.parent / "web" / "dist"

DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Enflow: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
START = """SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
"""


class Assets(StaticFiles):
    """Static files; a client that accepts gzip gets the compressed copy that was made at build time.

    A Range is ignored (RFC 9110, section 14.2): the files are small.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    async def check_config(self) -> None:
        """Accept a folder that is missing: the page may not be built, and then no file is found."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        compressed = await self._compressed(path, scope) if _accepts_gzip(Headers(scope=scope)) else None
        response = compressed or await super().get_response(path, scope)
        response.headers.update({"vary": "Accept-Encoding", "cache-control": "no-cache", "accept-ranges": "none"})
        return response

    async def _compressed(self, path: str, scope: Scope) -> Response | None:
        try:
            response = await super().get_response(f"{path}.gz", scope)
        except HTTPException:  # there is no such copy
            return None
        response.headers["content-encoding"] = "gzip"
        response.headers["content-type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        return response


_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_GZIP = re.compile(r"\s*(?:x-gzip|gzip|\*)\s*(?:;\s*q=(?!0(?:\.0*)?\s*$).*)?", re.IGNORECASE)


def _accepts_gzip(headers: Headers) -> bool:
    """Return True where a member of Accept-Encoding is gzip or a wildcard, with a quality above zero."""
    return any(_GZIP.fullmatch(member) for member in headers.get("accept-encoding", "").split(","))


pages = APIRouter(include_in_schema=False)


@pages.api_route("/", methods=["GET", "HEAD"])
async def index() -> Response:
    """Return the page.

    Raises:
        Problem: the page has not been built.
    """
    if not (DIST / "index.html").is_file():
        raise Problem("not-found", "the page is not built: run `make page`; the API is described at /docs")
    return HTMLResponse((DIST / "index.html").read_bytes(), headers={"Cache-Control": "no-cache"})


@pages.api_route("/docs", methods=["GET", "HEAD"])
async def docs() -> Response:
    """Return the interactive documentation."""
    return Response(DOCS, media_type="text/html")


@pages.api_route("/docs/start.js", methods=["GET", "HEAD"])
async def start() -> Response:
    """Return the script that starts the documentation; the content security policy allows no inline script."""
    return Response(START, media_type="text/javascript")


def _swagger_ui() -> Path:
    spec = find_spec("fastapi_offline")  # only for its copy of Swagger UI
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"


ASSETS, DOCS_ASSETS = Assets(directory=DIST / "assets", check_dir=False), Assets(directory=_swagger_ui())


def mounts() -> list[Mount]:
    """Return the mounted folders: the assets of the page and those of the documentation."""
    return [Mount("/assets", ASSETS), Mount("/docs/assets", DOCS_ASSETS)]
